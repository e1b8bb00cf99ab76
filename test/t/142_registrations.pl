# Whose a registered follower is: who may take its name, how many a role may have, and what
# happens to those that a leader has no room for.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader', 'fanout.max_followers = 6');
$leader->safe_psql('postgres', q{
	CREATE ROLE owner; CREATE ROLE owners_friend; GRANT owner TO owners_friend;
	CREATE ROLE alice IN ROLE fanout_follower; CREATE ROLE bob IN ROLE fanout_follower;
	GRANT fanout_follower TO owner, owners_friend;
	SELECT fanout.grant_stream('app', 'alice'), fanout.grant_stream('app', 'bob');
	CREATE TABLE goods (id int PRIMARY KEY, name text); ALTER TABLE goods OWNER TO owner;
	CREATE PUBLICATION goods FOR TABLE goods; ALTER PUBLICATION goods OWNER TO owner});
$leader->safe_psql('postgres', q{GRANT CREATE ON DATABASE postgres TO owner; SET ROLE owner;
	SELECT fanout.create_stream('goods', '{goods}');
	SELECT fanout.grant_stream('goods', 'alice'), fanout.grant_stream('goods', 'bob')});

sub streaming
{
	my ($count) = @_;
	wait_until('the streams', sub { ($leader->psql('postgres',
				q{SELECT count(*) FROM fanout.streams WHERE state = 'streaming'}))[1] eq $count });
	return;
}
streaming(2);

# The error of a role's call, or nothing.
sub call
{
	my ($role, $call) = @_;
	my ($rc, $out, $err) = $leader->psql('postgres', "\\set VERBOSITY verbose\nSET ROLE $role; SELECT fanout.$call");
	return $err;
}
sub uuid { return sprintf '%08d-0000-0000-0000-000000000000', $_[0] }
sub register
{
	my ($role, $stream, $name, $instance) = @_;
	return call($role, "register_follower('$stream', '$name', '" . uuid($instance) . "', NULL, NULL)");
}
sub followers { return $leader->safe_psql('postgres', q{SELECT string_agg(follower, ' ' ORDER BY follower) FROM fanout.followers}) }

# ---------- names ----------

my $taken = qr/42710: follower "\w+" is already registered/;
is(register('alice', 'goods', 'a', 1), '', 'a name that is free');
for my $restarted (0, 1)
{
	$leader->restart if $restarted;
	streaming(2);
	my $when = $restarted ? ', after a restart' : '';
	like(register('bob', 'goods', 'a', 2), $taken, "another role does not get the name of one that copies$when");
	is(register('alice', 'goods', 'a', 3), '', "the same role does$when");
	is(call('bob', "unregister_follower('goods', 'a', '" . uuid(2) . "', 0)"), '', 'nor can it unregister it');
	is(followers(), 'a', '... which says nothing');
	is(register('owners_friend', 'goods', 'a', 4), '', "a role with the owner's rights takes it$when");
	like(register('alice', 'goods', 'a', 5), $taken, '... and has it');
	is(register('postgres', 'goods', 'a', 6), '', "and so does a superuser$when");
	is(register('alice', 'goods', 'a', 6), '', "the follower itself may come with another login$when");
	like(register('bob', 'goods', 'a', 2), $taken, '... whose it is then');
}

# ---------- how many ----------

my $share = qr/53400: too many followers of role "\w+" are registered.*DETAIL/s;
is(register('alice', 'app', "b$_", 10 + $_), '', 'a role has as many as are free') for 1, 2;
like(register('alice', $_, 'x', 20), $share, "... and no more, of stream $_") for 'app', 'goods';
is(register('alice', 'app', 'b1', 11), '', 'those that it has it may register again');
is(register('bob', 'app', 'c', 30), '', 'there is room for others');
is(register('bob', 'app', 'd', 31), '', '... as long as there is');
like(register('bob', 'app', 'x', 32), $share, '... half of what is left at most');
is(register('owner', 'goods', 'e', 40), '', 'the owner of the stream has all that is left');
like(register($_, 'app', 'x', 50), qr/53400: too many followers are registered on this server/, "no room for $_")
  for 'alice', 'postgres';
is(followers(), 'a b1 b2 c d e', 'all that is registered');
$leader->safe_psql('postgres', qq{SELECT fanout.drop_follower('app', '$_')}) for qw(b1 b2 c d);

# ---------- fewer than there are ----------

my $follower = new_follower('follower', 'fanout.retry_interval = 100');
$leader->safe_psql('postgres', q{INSERT INTO goods VALUES (1, 'one')});
is(register('postgres', 'app', "b$_", 10 + $_), '', 'some that take the room') for 1, 2, 3;
follow($follower, $leader);
wait_for_copy($follower);
is(followers(), 'a b1 b2 b3 e follower', 'with a follower that streams');

# Which of the two streams comes first is not known.
$leader->append_conf('postgresql.conf', 'fanout.max_followers = 2');
my $from = -s $leader->logfile;
$leader->restart;
streaming(2);
is($leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.followers'), '2', 'those for whom there is room are there');
my @forgotten = slurp_file($leader->logfile, $from) =~ /WARNING:  follower "(\w+)" of stream "\w+" is forgotten, since more than "fanout.max_followers"/g;
is(join(' ', sort(@forgotten, split / /, followers())), 'a b1 b2 b3 e follower', 'the log names the others');
ok((grep { $_ eq 'follower' } @forgotten), '... the last one, too');
wait_until('the refusal', sub { $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness')
		  =~ /too many followers are registered on this server/ });
pass('a follower that is forgotten wants to copy again, and is refused');
$leader->safe_psql('postgres', q{INSERT INTO goods VALUES (2, 'two')});
my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
wait_until('decoding', sub { $leader->safe_psql('postgres', qq{SELECT bool_and(decoded_lsn >= '$lsn') FROM fanout.streams}) eq 't' });
pass('the streams go on');
$from = -s $leader->logfile;
$leader->restart;
streaming(2);
unlike(slurp_file($leader->logfile, $from), qr/is forgotten/, 'at the next start there is room for all that are left');
$leader->append_conf('postgresql.conf', 'fanout.max_followers = 3');
$leader->restart;
wait_for_copy($follower);
same_data('with room it copies again', $leader, $follower);

# ---------- a file of another version ----------

$leader->stop;
for my $file (glob $leader->data_dir . '/pg_fanout/*/*/registry')
{
	open my $fh, '+<:raw', $file or die "$file: $!";
	seek $fh, 4, 0;
	print {$fh} pack 'L', 2;
	close $fh or die "$file: $!";
}
$from = -s $leader->logfile;
$leader->start;
streaming(2);
like(slurp_file($leader->logfile, $from), qr/WARNING:  file "\S+registry" is damaged: the followers of stream "app" are forgotten/,
	'a file of another version is not read');
is($leader->safe_psql('postgres', q{SELECT count(*) FROM fanout.followers WHERE follower <> 'follower'}), '0',
	'... and nobody is registered until he comes back');
wait_for_copy($follower);
same_data('who comes back copies again', $leader, $follower);

$_->stop for $follower, $leader;
done_testing();
