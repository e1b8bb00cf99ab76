# Backups of a leader: pg_dump, point-in-time recovery, and old files put back.  Followers
# find out that history is another one and copy again; they go on when theirs is part of it.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader', 'fanout.retry_interval = 200');
my $archive = $leader->archive_dir;
$leader->append_conf('postgresql.conf', qq{archive_mode = on\narchive_command = 'cp "%p" "$archive/%f"'\n}
	  . qq{restore_command = 'cp "$archive/%f" "%p"'\nrecovery_target_action = promote\n});
$leader->restart;
$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY, v text)});
my $ahead = new_follower('ahead', 'fanout.retry_interval = 200');
my $behind = new_follower('behind', 'fanout.retry_interval = 200');
follow($_, $leader) for $ahead, $behind;
wait_for_copy($_) for $ahead, $behind;

sub write_row { return $leader->safe_psql('postgres', "INSERT INTO t SELECT coalesce(max(id), 0) + 1, '$_[0]' FROM t"); }
sub copied_at { return $_[0]->safe_psql('postgres', q{SELECT max(copied_at) FROM fanout.followed_table}); }
sub pause
{
	my ($follower) = @_;
	$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
	state_is($follower, 'paused');
	return;
}
sub resume { return $_[0]->safe_psql('postgres', q{SELECT fanout.resume('app')}); }
sub position { return $_[0]->safe_psql('postgres', q{SELECT applied_lsn FROM fanout.staleness}); }
sub copy_files { system_or_bail('cp', '-a', @_); return; }

# Put other files in the place of the leader's, which is stopped.
sub put_back
{
	my ($from) = @_;
	my $data = $leader->data_dir;
	system_or_bail('rm', '-rf', $data);
	copy_files($from, $data);
	return;
}

# Write until the WAL is past where a follower has been.
sub write_past
{
	my ($lsn) = @_;
	wait_until("the WAL to pass $lsn", sub {
			write_row('new future');
			$leader->safe_psql('postgres', q{SELECT pg_switch_wal()});
			$leader->safe_psql('postgres', "SELECT pg_current_wal_flush_lsn() > '$lsn'") eq 't' });
	return;
}

# ---------- pg_dump ----------

sub dump_and_restore
{
	my ($node) = @_;
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
	$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, 'postgres' ], 'pg_dump of ' . $node->name);
	$node->safe_psql('postgres', 'CREATE DATABASE restored');
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'restored', $dump ], '... is restored');
	is($node->safe_psql('restored', 'SELECT count(*) FROM t'), $node->safe_psql('postgres', 'SELECT count(*) FROM t'),
		'... with its rows');
	is($node->safe_psql('restored', q{SELECT (SELECT count(*) FROM fanout.streams) + (SELECT count(*) FROM fanout.staleness)
			+ (SELECT count(*) FROM fanout.stream) + (SELECT count(*) FROM fanout.followed_stream)}),
		'0', '... without any stream');
	$node->safe_psql('restored', q{INSERT INTO t VALUES (1000, 'mine'); DELETE FROM t WHERE id = 1000});
	return;
}
write_row('one') for 1 .. 3;
wait_for_catchup($leader, $ahead, $behind);
dump_and_restore($leader);
$leader->safe_psql('restored', q{SELECT fanout.create_stream('app')});
wait_until('the restored database to stream', sub {
		$leader->safe_psql('restored', 'SELECT state FROM fanout.streams') eq 'streaming' });
pass('a restored leader database can lead a stream of the same name');
is($leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.followers'), '2', '... and the original has its followers');
$leader->safe_psql('restored', q{SELECT fanout.drop_stream('app')});
is($leader->safe_psql('restored', 'SELECT count(*) FROM pg_publication'), '0', '... whose publication goes with it');
dump_and_restore($ahead);
$ahead->safe_psql('postgres', 'DROP DATABASE restored');
write_row('after the dumps');
all_equal('after the dumps', $leader, $ahead, $behind);

# ---------- point-in-time recovery ----------

my $backup = $leader->backup_dir . '/base';
$leader->command_ok([ 'pg_basebackup', '-D', $backup, '-c', 'fast', '-h', $leader->host, '-p', $leader->port, '--no-sync' ],
	'pg_basebackup of a leader that streams');
write_row('kept');
wait_for_catchup($leader, $ahead, $behind);
pause($behind);
my $target = $leader->safe_psql('postgres', q{SELECT pg_create_restore_point('here')});
write_row('lost') for 1 .. 5;
wait_for_catchup($leader, $ahead);
my $lost_until = position($ahead);
pause($ahead);
$leader->safe_psql('postgres', 'SELECT pg_switch_wal()');
wait_until('the archive', sub { $leader->safe_psql('postgres',
			q{SELECT last_archived_wal >= pg_walfile_name('} . $lost_until . q{') FROM pg_stat_archiver}) eq 't' });
$leader->stop;
put_back($backup);
$leader->append_conf('postgresql.conf', "recovery_target_name = 'here'\n");
append_to_file($leader->data_dir . '/recovery.signal', '');
$leader->start;
$leader->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'not promoted';
is($leader->safe_psql('postgres', q{SELECT count(*) FROM t WHERE v = 'lost'}), '0', 'the leader is back at the restore point');

# Its WAL goes past where the followers have been before any of them is back.
write_past($lost_until);
my %copied = map { $_->name => copied_at($_) } $ahead, $behind;
resume($_) for $ahead, $behind;
for my $follower ($ahead, $behind)
{
	wait_until($follower->name . ' to copy again', sub { copied_at($follower) gt $copied{ $follower->name } });
}
all_equal('after point-in-time recovery', $leader, $ahead, $behind);
is($ahead->safe_psql('postgres', q{SELECT count(*) FROM t WHERE v = 'lost'}), '0', 'what is no longer true is gone');

# Who the restored leader never heard of copies again, too, and is registered.
my $late = new_follower('late', 'fanout.retry_interval = 200');
follow($late, $leader);
wait_for_copy($late);
$copied{late} = copied_at($late);
$leader->stop;
put_back($backup);
append_to_file($leader->data_dir . '/recovery.signal', '');
$leader->append_conf('postgresql.conf', "recovery_target_name = 'here'\nrecovery_target_timeline = 1\n");
$leader->start;
$leader->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'not promoted';
wait_until('late to copy again', sub { copied_at($late) gt $copied{late} });
all_equal('with a backup from before it followed', $leader, $ahead, $behind, $late);

# ---------- old files, slot and log and all, on the same timeline ----------

pause($behind);
$leader->stop;
my $files = PostgreSQL::Test::Utils::tempdir() . '/files';
copy_files($leader->data_dir, $files);
$leader->start;
write_row('lost') for 1 .. 5;
wait_for_catchup($leader, $ahead, $late);
$lost_until = position($ahead);
pause($ahead);
%copied = map { $_->name => copied_at($_) } $ahead, $behind, $late;
$leader->stop;
put_back($files);
$leader->start;
write_past($lost_until);
resume($_) for $ahead, $behind;
for my $follower ($ahead, $late)
{
	wait_until($follower->name . ' to copy again', sub { copied_at($follower) gt $copied{ $follower->name } });
}
all_equal('after old files were put back', $leader, $ahead, $behind, $late);
is(copied_at($behind), $copied{behind}, 'who had nothing of what is gone goes on');
is($late->safe_psql('postgres', q{SELECT count(*) FROM t WHERE v = 'lost'}), '0', 'what is no longer true is gone');

# A crash is no other history.
%copied = map { $_->name => copied_at($_) } $ahead, $behind, $late;
write_row('before the crash');
$leader->stop('immediate');
$leader->start;
write_row('after the crash');
all_equal('after a crash', $leader, $ahead, $behind, $late);
is_deeply({ map { $_->name => copied_at($_) } $ahead, $behind, $late }, \%copied, '... nobody copies again');

unlike(slurp_file($_->logfile), qr/PANIC|terminated by signal/, $_->name . ' did not crash') for $leader, $ahead, $behind, $late;
$_->stop for $ahead, $behind, $late, $leader;
done_testing();
