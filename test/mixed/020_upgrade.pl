# docs/upgrade.md to the letter: from the installed version to the newest one, while
# clients write.  Its commands are taken from the document, in their order; only the
# names of the hosts are replaced.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $old = new_server('old');
local $Fanout::major = (sort { $a <=> $b } keys %Fanout::majors)[-1];
my $new = new_server('new');
my %servers = (old => $old, new => $new);

# The commands: each an address ("sh", "old", "new") and a text.
sub commands
{
	my ($text) = slurp_file("$FindBin::Bin/../../docs/upgrade.md") =~ /^## To another major version(.*?)^## /ms;
	my @commands;
	while ($text =~ /^```(\w+)\n(.*?)^```/msg)
	{
		my ($language, $command) = ($1, $2);
		my $where = $language eq 'sh' ? 'sh' : ($command =~ /^-- on the (old|new) server$/m ? $1 : die "where? $command");
		push @commands, [ $where, $command ];
	}
	return @commands;
}

sub run_step
{
	my ($where, $command) = @_;
	for my $name (keys %servers)
	{
		my ($host, $port) = ($servers{$name}->host, $servers{$name}->port);
		$command =~ s/-h $name\b/-h $host -p $port/g;
		$command =~ s/host=$name\b/host=$host port=$port/g;
	}
	return $servers{$where}->safe_psql('shop', $command) if $where ne 'sh';
	my $bindir = $new->config_data('--bindir');
	my ($out, $err);
	IPC::Run::run([ 'sh', '-c', "PATH=$bindir:\$PATH; $command" ], '>', \$out, '2>', \$err) or die $err;
	return $out;
}

$old->safe_psql('postgres', 'CREATE ROLE seller LOGIN; CREATE DATABASE shop');
$old->safe_psql('shop', q{
	CREATE TABLE orders (id serial PRIMARY KEY, client int NOT NULL, n int NOT NULL, UNIQUE (client, n));
	CREATE TABLE totals (client int PRIMARY KEY, orders int NOT NULL);
	ALTER TABLE orders OWNER TO seller; ALTER TABLE totals OWNER TO seller;
	CREATE SEQUENCE tickets OWNED BY NONE; ALTER SEQUENCE tickets OWNER TO seller;
	CREATE VIEW busy AS SELECT client FROM totals WHERE orders > 10;
	INSERT INTO totals SELECT g, 0 FROM generate_series(1, 4) g});

# Clients that write to the old server until it refuses, then to the new one; each notes
# what was acknowledged, when and where, and the sequence's values that it got.
my $dir = PostgreSQL::Test::Utils::tempdir;
my $stop = "$dir/stop";

sub write_orders
{
	my ($client) = @_;
	open my $log, '>', "$dir/$client" or die $!;
	$log->autoflush(1);
	my $n = 0;
	until (-e $stop)
	{
		for my $name ('old', 'new')
		{
			my $server = $servers{$name};
			my $sql = join('', map {
					sprintf("BEGIN; INSERT INTO orders (client, n) SELECT %d, %d WHERE NOT EXISTS (SELECT FROM orders WHERE client = %d AND n = %d);\n"
						  . "UPDATE totals SET orders = %d WHERE client = %d; COMMIT;\n\\echo %d %s\nSELECT nextval('tickets');\n",
						$client, $_, $client, $_, $_, $client, $_, $name) } $n + 1 .. $n + 20);
			my ($out, $err);
			# From a file: psql ends with its session, and does not read to the end.
			open my $script, '>', "$dir/$client.sql" or die $!;
			print $script $sql;
			close $script;
			IPC::Run::run([ $server->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/$client.sql", '-d',
					$server->connstr('shop') . ' user=seller' ], '>', \$out, '2>', \$err);
			my $now = time();
			for my $line (split /\n/, $out)
			{
				$n = $1 if $line =~ /^(\d+) $name$/;
				print $log "$line $now\n";
			}
		}
	}
	return;
}
my @clients;
for my $client (1 .. 4)
{
	my $pid = fork() // die $!;
	if ($pid == 0)
	{
		eval { write_orders($client) };
		print STDERR $@ if $@;
		POSIX::_exit($@ ? 1 : 0);
	}
	push @clients, $pid;
}

my ($stopped, $taken);
for my $command (commands())
{
	my ($where, $text) = @$command;
	$stopped = time() if $text =~ /default_transaction_read_only = on/;
	my $result = run_step($where, $text);
	$taken = time() if $text =~ /unfollow/;
	is($result, '', 'verify() finds no difference') if $text =~ /verify/;
	like($result, qr/^1$/m, 'the new server has it all') if $text =~ /wait_for_followers/;
}
ok(defined $stopped && defined $taken, 'the document was followed to its end');
my %last = map { split /\|/ } split /\n/, $old->safe_psql('shop', 'SELECT client, max(n) FROM orders GROUP BY client');
wait_until('every client to write to the new server',
	sub { 4 == grep { slurp_file("$dir/$_") =~ / new /} 1 .. 4 });
append_to_file($stop, '');
waitpid($_, 0) for @clients;

# What was acknowledged is there once, in order; no value of a sequence came twice.
my (@acknowledged, @tickets, %moved, %stayed);
for my $client (1 .. 4)
{
	for my $line (split /\n/, slurp_file("$dir/$client"))
	{
		if ($line =~ /^(\d+) (old|new) /)
		{
			$acknowledged[$client] = $1;
			$moved{$client} //= $1 if $2 eq 'new';
			$stayed{$client} = $1 if $2 eq 'old';
		}
		push @tickets, $1 if $line =~ /^(\d+) [\d.]+$/;
	}
	cmp_ok($last{$client}, '>=', $stayed{$client}, "client $client: the old server has what it acknowledged");
	cmp_ok($last{$client}, '<=', $moved{$client}, '... and nothing that came later');
	is($new->safe_psql('shop', "SELECT count(*), count(DISTINCT n), min(n), max(n) >= $acknowledged[$client] FROM orders WHERE client = $client") =~ s/\|t$//r,
		join('|', ($new->safe_psql('shop', "SELECT max(n) FROM orders WHERE client = $client")) x 2, 1),
		"client $client: $acknowledged[$client] orders, from $moved{$client} on written to the new server, none lost and none twice");
	is($new->safe_psql('shop', "SELECT orders >= $acknowledged[$client] FROM totals WHERE client = $client"), 't', "client $client: the total");
}
my %seen;
$seen{$_}++ for @tickets;
is(scalar(grep { $_ > 1 } values %seen), 0, scalar(@tickets) . ' values of a sequence, none twice');
is($new->safe_psql('shop', 'SELECT count(*) FROM busy'), '4', 'views');
is($new->safe_psql('shop', q{SELECT relowner::regrole FROM pg_class WHERE relname = 'orders'}), 'seller', 'owners');
is($old->safe_psql('shop', 'SELECT count(*) FROM pg_replication_slots'), '0', 'no slot is left');
my ($rc, $out, $err) = $old->psql('shop', 'INSERT INTO totals VALUES (9, 9)');
like($err, qr/read-only transaction/, 'the old server takes no writes');
diag(sprintf('writes were stopped for %d ms', ($taken - $stopped) * 1000));
$_->stop for $old, $new;
done_testing();
