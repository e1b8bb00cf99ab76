# A leader and a follower in each of the server's encodings, with characters of their own in
# rows, names and statements; xml, whose declaration is about the encoding; and leader and
# follower in different ones.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

# Some characters of each encoding, as bytes in hexadecimal.
my %text = (
	UTF8 => 'c3a9e38182f09f9880', EUC_JP => 'a4a2b4c1', EUC_CN => 'd6d0b9fa', EUC_KR => 'b0a1b3aa', EUC_TW => 'c4e3a4a6',
	EUC_JIS_2004 => 'a4a2b4c1', MULE_INTERNAL => '81e992a4a2', SQL_ASCII => 'fffe80',
	map({ ($_ => 'e9e0') } map({ "LATIN$_" } 1 .. 10), qw(WIN1250 WIN1251 WIN1252 WIN1254 WIN1256 WIN1257 WIN1258 KOI8R KOI8U)),
	map({ ($_ => 'e9e0') } qw(WIN866 WIN1253 WIN1255 ISO_8859_5 ISO_8859_6 ISO_8859_7 ISO_8859_8)), WIN874 => 'a1a2');
my $server = new_server('server', 'fanout.max_streams = 100', 'max_worker_processes = 300', 'max_replication_slots = 100',
	'max_wal_senders = 100', 'max_connections = 300', 'fanout.max_followers = 100', 'shared_buffers = 64MB', 'fanout.copy_workers = 1');
sub value { return $server->safe_psql($_[0], $_[1]); }

# Which encodings a server may have is what the server says; each is in the list.
my @encodings = split /\n/, value('postgres', q{SELECT pg_encoding_to_char(n) FROM generate_series(0, 60) n
	WHERE pg_encoding_to_char(n) <> '' AND n <= pg_char_to_encoding('KOI8U')});
is_deeply([ sort @encodings ], [ sort keys %text ], 'the encodings of a server');

my $dbs = sub { return map { "${_}_" . lc $_[0] } qw(l f) };
value('postgres', join "\n", map { my $e = $_; map({ "CREATE DATABASE $_ TEMPLATE template0 ENCODING '$e' LOCALE 'C';" } $dbs->($e)) } @encodings);
my $conninfo = sub { return $server->connstr($_[0]) =~ s/'/''/gr };
for my $e (@encodings)
{
	my ($l, $f) = $dbs->($e);
	# The server makes no xml where it can't convert to UTF8.
	my ($xml, $declared) = $e eq 'MULE_INTERNAL' ? ('NULL', 'NULL') : (q{'<a>x</a>'}, qq{'<?xml version="1.0" encoding="$e"?><b/>'});
	value($l, qq{CREATE EXTENSION pg_fanout;
		CREATE FUNCTION own() RETURNS text LANGUAGE sql AS \$\$ SELECT convert_from('\\x$text{$e}', '$e') \$\$;
		CREATE TABLE t (id int PRIMARY KEY, v text, c varchar(10), x xml, a xml[], n name);
		INSERT INTO t SELECT 1, own(), own(), x::xml, ARRAY[x]::xml[], own()::name FROM (VALUES ($xml)) v (x);
		INSERT INTO t VALUES (2, NULL, NULL, $declared);
		DO \$\$ BEGIN EXECUTE format('CREATE TABLE %I (id int PRIMARY KEY, %I text)', own(), own()); END \$\$;
		SELECT fanout.create_stream('app')});
	value($f, 'CREATE EXTENSION pg_fanout');
}
value(($dbs->($_))[1], sprintf(q{SELECT fanout.follow('app', '%s')}, $conninfo->(($dbs->($_))[0]))) for @encodings;
for my $e (@encodings)
{
	my ($l, $f) = $dbs->($e);
	is(value($f, q{SELECT fanout.wait_for_copy('app', '120s')}), 't', "$e: copied");
	value($l, qq{INSERT INTO t SELECT id + 2, v, c, x, a, n FROM t; UPDATE t SET v = v || own() WHERE id = 1;
		DO \$\$ BEGIN EXECUTE format('ALTER TABLE %I ADD %I text DEFAULT %L', own(), own() || 'x', own());
			EXECUTE format('INSERT INTO %I VALUES (1, %L, %L)', own(), own(), own()); END \$\$});
	my $token = value($l, 'SELECT fanout.token()');
	is(value($f, "SELECT fanout.wait_for('$token', '60s')"), 't', "$e: streamed");
	my $bytes = q{SELECT string_agg(concat_ws(' ', id, encode(textsend(v), 'hex'), encode(textsend(c::text), 'hex'), encode(textsend(x::text), 'hex'),
			encode(textsend(a[1]::text), 'hex'), encode(namesend(n), 'hex')), E'\n' ORDER BY id) FROM t};
	is(value($f, $bytes), value($l, $bytes), "$e: the same bytes");
	is(value($f, q{SELECT string_agg(equal::text, ',') FROM fanout.verify('app')}), 'true,true', "$e: verified");
	like(value($f, q{SET client_encoding = 'SQL_ASCII'; SELECT * FROM fanout.staleness_chart('app', 20)}), qr/^\+-{20}$/m, "$e: a chart");
}

# Different ones are refused, in either direction.
for my $pair ([ 'LATIN1', 'UTF8' ], [ 'UTF8', 'EUC_JP' ], [ 'SQL_ASCII', 'LATIN9' ], [ 'WIN1252', 'SQL_ASCII' ])
{
	my ($leads, $follows) = @$pair;
	value('postgres', "CREATE DATABASE other TEMPLATE template0 ENCODING '$follows' LOCALE 'C'");
	value('other', 'CREATE EXTENSION pg_fanout');
	my ($rc, $out, $err) = $server->psql('other', sprintf q{SELECT fanout.follow('app', '%s')}, $conninfo->(($dbs->($leads))[0]));
	like($err, qr/the leader's encoding is $leads, but this database's is $follows/, "a leader in $leads is refused in $follows");
	value('postgres', 'DROP DATABASE other');
}

unlike(PostgreSQL::Test::Utils::slurp_file($server->logfile), qr/PANIC|terminated by signal/, 'no crash');
$server->stop;
done_testing();
