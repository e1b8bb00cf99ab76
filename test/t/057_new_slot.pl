# A slot that is made while others change the schema: what commits while the server finds its first
# snapshot is in the snapshots that the first transactions are decoded with.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my @settings = ('autovacuum = off', 'max_prepared_transactions = 5', 'fanout.retry_interval = 100ms');
my $leader = new_server('leader', @settings);
my $follower = new_server('follower', @settings);
my $log_from;

# Messages of the server's: it has seen what runs; what ran then has ended; what runs since can be decoded.
sub until_found
{
	my ($what) = @_;
	wait_until("\"$what\"", sub { slurp_file($leader->logfile, $log_from) =~ /logical decoding found $what/ });
	return;
}

# Each table gets a column at another moment; tables are made and published at some, too.
my @tables = qw(early sub prepared late joins made);

sub changed_meanwhile
{
	my ($db, $publications) = @_;
	my $named = $publications ne '';
	$Fanout::database = $db;
	$_->safe_psql('postgres', "CREATE DATABASE $db") for $leader, $follower;
	$_->safe_psql($db, 'CREATE EXTENSION pg_fanout') for $leader, $follower;
	$leader->safe_psql($db, join ';', 'CREATE TABLE other (id int PRIMARY KEY)',
		(map { "CREATE TABLE $_ (id int PRIMARY KEY)" } @tables[ 0 .. 4 ]),
		'CREATE PUBLICATION pub FOR TABLE early, sub, prepared, late');
	my ($old, $oldest, $changing, $writing) = map { $leader->background_psql($db, on_error_die => 1) } 1 .. 4;
	$log_from = -s $leader->logfile;

	# The first step waits for one transaction.
	$old->query_safe('BEGIN; SELECT pg_current_xact_id()');
	$leader->safe_psql($db, "SELECT fanout.create_stream('app'$publications)");
	until_found('initial starting point');
	$oldest->query_safe('BEGIN; SELECT pg_current_xact_id()');
	$leader->safe_psql($db, 'ALTER TABLE early ADD c int');
	$leader->safe_psql($db, "BEGIN; ALTER TABLE prepared ADD c int; PREPARE TRANSACTION '$db'");
	$changing->query_safe('BEGIN; ALTER TABLE late ADD c int; ALTER TABLE joins ADD c int;'
		  . ' CREATE TABLE made (id int PRIMARY KEY, c int); ALTER PUBLICATION pub ADD TABLE joins, made');
	$old->query_safe('SAVEPOINT s; ALTER TABLE sub ADD c int; RELEASE s; COMMIT');

	# The second one for those that have begun meanwhile.
	until_found('initial consistent point');
	$writing->query_safe('BEGIN; INSERT INTO other VALUES (1)');
	$changing->query_safe('COMMIT');
	$leader->safe_psql($db, "COMMIT PREPARED '$db'");
	$oldest->query_safe('COMMIT');
	until_found('consistent point');

	# From here on all that commits is in the stream.
	follow($follower, $leader);
	wait_for_copy($follower);
	$writing->query_safe("INSERT INTO $_ VALUES (1, 42)") for @tables;
	$writing->query_safe('COMMIT');
	$leader->safe_psql($db, join ';', map { "INSERT INTO $_ VALUES (2, 43)" } @tables);
	$_->quit for $old, $oldest, $changing, $writing;
	wait_for_catchup($leader, $follower);
	is($follower->safe_psql($db, "SELECT string_agg(id || ' ' || c, ',' ORDER BY id) FROM $_"), '1 42,2 43',
		"$db: table \"$_\"") for @tables;

	# Another decoder finds its first snapshot in the same way.
	my $pid = $leader->safe_psql($db, 'SELECT decoder_pid FROM fanout.streams');
	$leader->safe_psql($db, "SELECT pg_terminate_backend($pid)");
	wait_until('another decoder', sub {
			$leader->safe_psql($db, "SELECT decoder_pid <> $pid AND state = 'streaming' FROM fanout.streams") eq 't' });
	$leader->safe_psql($db, join ';', map { "INSERT INTO $_ VALUES (3, 44)" } @tables);
	wait_for_catchup($leader, $follower);
	is($follower->safe_psql($db, "SELECT string_agg(c::text, ',' ORDER BY id) FROM $_"), '42,43,44',
		"$db: table \"$_\" with another decoder") for @tables;
	is($leader->safe_psql($db, 'SELECT last_error FROM fanout.streams'), '', "$db: no error");
	return;
}

changed_meanwhile('whole', '');
changed_meanwhile('named', q{, '{pub}'});
unlike(slurp_file($leader->logfile), qr/goes on without/, 'one slot was enough');

$_->stop for $follower, $leader;
done_testing();
