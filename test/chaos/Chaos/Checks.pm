# What must be true at a quiet point, when all faults are undone and nobody writes, and
# when it is all over.
package Chaos::Checks;

use strict;
use warnings FATAL => 'all';

use Chaos::Servers;
use Chaos::Workload;
use Fanout qw(checksums wait_for_catchup wait_for_copy wait_until);
use PostgreSQL::Test::Utils;
use Test::More;

*value_of = \&Chaos::Servers::value_of;

# ---------- equal ----------

# The shape of everything users made, in text.
my $schema = q{
	SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM (
		SELECT format('%s.%s %s %s %s', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod),
			a.attnotnull, pg_get_expr(d.adbin, d.adrelid)) AS line
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
		UNION ALL
		SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE c.relnamespace = 'public'::regnamespace
		UNION ALL
		SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
		WHERE connamespace = 'public'::regnamespace
		UNION ALL
		SELECT format('%s partition of %s %s', c.oid::regclass, inhparent::regclass, pg_get_expr(c.relpartbound, c.oid))
		FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
		UNION ALL
		SELECT format('%s %s', t.typname, (SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) FROM pg_enum e
			WHERE e.enumtypid = t.oid)) FROM pg_type t WHERE t.typtype = 'e') s};

my $differences = q{SELECT string_agg(v::text, E'\n') FROM fanout.verify('app') v WHERE equal IS DISTINCT FROM true};

# Of what is replicated.
sub sums_of
{
	my $sums = checksums($_[0]);
	delete @$sums{ grep { /^local\./ } keys %$sums };
	return $sums;
}

sub equal
{
	my ($world) = @_;
	my $leader = $world->{leader}{node};
	my $shape = $leader->safe_psql('postgres', $schema);
	my $sums = sums_of($leader);
	my $behind = $leader->safe_psql('postgres', 'SELECT last_value FROM note_id_seq');
	for my $follower (@{ $world->{followers} })
	{
		my ($name, $node) = (Chaos::Servers::name_of($follower), $follower->{node});
		is($node->safe_psql('postgres', $schema), $shape, "$name has the leader's schema");
		is_deeply(sums_of($node), $sums, "$name equals the leader");
		is($node->safe_psql('postgres', $differences, timeout => 300), '', "$name by fanout.verify()");
		cmp_ok($node->safe_psql('postgres', 'SELECT last_value FROM note_id_seq'), '>=', $behind,
			"$name is not behind with a sequence");
	}
	return;
}

# ---------- what is left behind ----------

sub files_in { return map { s{.*/}{}r } glob("$_[0]/*"); }

# While all is running: nothing but what belongs to one stream and its followers.
sub nothing_left_behind
{
	my ($world) = @_;
	my $followers = @{ $world->{followers} };
	my $leader = $world->{leader};
	is(value_of($leader, 'SELECT count(*), bool_and(active) FROM pg_replication_slots'), '1|t', 'one slot, in use');
	is(value_of($leader, 'SELECT count(*), count(DISTINCT sender_pid) FROM fanout.followers'), "$followers|$followers",
		'a sender for each follower');
	wait_until('senders and copies that nobody needs to end', sub {
			value_of($leader, q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'sending stream%'}) eq $followers });
	for my $server (Chaos::Servers::all_servers($world))
	{
		my $name = Chaos::Servers::name_of($server);
		my $data = $server->{node}->data_dir;
		my $of_leader = $server == $leader;
		is(join(' ', files_in("$data/pg_replslot")) =~ s/\S+/slot/gr, $of_leader ? 'slot' : '', "$name: slots");
		is(value_of($server, 'SELECT count(*) FROM pg_replication_origin'), $of_leader ? 0 : 1, "$name: origins");
		is(scalar(files_in("$data/pg_fanout")), 1, "$name: directories in pg_fanout");
		is(join(' ', map { files_in($_) } "$data/base/pgsql_tmp"), '', "$name: no temporary files");
		is(value_of($server, 'SELECT count(*) FROM pg_prepared_xacts'), '0', "$name: no prepared transactions");
		is(value_of($server, q{SELECT string_agg(backend_type, ',' ORDER BY backend_type) FROM pg_stat_activity
			WHERE backend_type LIKE 'pg_fanout%'}),
			$of_leader ? 'pg_fanout decoder,pg_fanout launcher' : 'pg_fanout follower,pg_fanout launcher',
			"$name: workers");
	}
	return;
}

# Everybody leaves, the stream is dropped and the servers stop.
sub nothing_left_at_all
{
	my ($world) = @_;
	my $leader = $world->{leader};
	for my $follower (@{ $world->{followers} })
	{
		ok(Chaos::Servers::leave($follower), Chaos::Servers::name_of($follower) . ' leaves');
	}
	is(value_of($leader, 'SELECT count(*) FROM fanout.followers'), '0', 'no follower is left');
	$leader->{node}->safe_psql('postgres', q{SELECT fanout.drop_stream('app')});
	for my $server (Chaos::Servers::all_servers($world))
	{
		my $name = Chaos::Servers::name_of($server);
		my $data = $server->{node}->data_dir;
		wait_until("the workers of $name to clean up", sub {
				value_of($server, q{SELECT count(*) FROM pg_stat_activity
					WHERE backend_type LIKE 'pg_fanout%' AND backend_type <> 'pg_fanout launcher'}) eq '0'
				&& value_of($server, 'SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_replication_origin)') eq '0'
				&& !files_in("$data/pg_fanout") });
		pass("$name: no worker, slot, origin or file is left");
		$server->{node}->stop;
		$server->{down} = 1;
		# The postmaster says that it is done just before it is.
		wait_until("the processes of $name to end", sub { !Chaos::Servers::processes_of($server) });
		is(join(' ', files_in("$data/pg_dynshmem")), '', "$name: no dynamic shared memory is left");
		my %segments = map { $_ => 1 } map { /^\s*\d+\s+(\d+)/ } split /\n/, slurp_file('/proc/sysvipc/shm');
		is(join(' ', grep { $segments{$_} } keys %{ $server->{memory} }), '', "$name: no shared memory is left");
	}
	return;
}

# ---------- logs ----------

# What must never be in a server's log.  $lost: followers may be lost now.  The workers of a
# follower that left may have found a table gone, and a copy one that the leader dropped just
# then.
sub wrong_lines
{
	my ($server, $lost) = @_;
	my $text = slurp_file($server->{node}->logfile, $server->{log_offset} // 0);
	$server->{log_offset} = -s $server->{node}->logfile;
	my @wrong;
	for my $line (split /\n/, $text)
	{
		my ($state, $of) = $line =~ /^\S+ \S+ \S+ \[\d+\] (\w{5}) (.*?): / or next;
		next if $lost && $state =~ /^53|^FO001/
		  || $state eq '42P01' && ($server->{left} || $line =~ /the leader reported: relation/);
		push @wrong, $line if $line =~ /PANIC|TRAP:|terminated by signal (?!9:)/ || $state eq 'FO001'
		  || ($line =~ /(ERROR|FATAL): / && $state =~ ($of =~ /^pg_fanout/ ? qr/^(XX|22|23|42|P0|53)/ : qr/^XX/));
	}
	delete $server->{left};
	return map { Chaos::Servers::name_of($server) . ": $_" } @wrong;
}

# ---------- a quiet point ----------

# Stop the writers, wait until all followers have caught up, compare.
sub quiet_point
{
	my ($world, $what, $lost) = @_;
	return subtest $what => sub {
		my @nodes = map { $_->{node} } @{ $world->{followers} };
		Chaos::Workload::still($world);
		wait_for_copy($_) for @nodes;
		wait_for_catchup($world->{leader}{node}, @nodes);
		# A table that is copied again by itself may be noticed with the last changes only.
		wait_until('tables to be copied', sub {
				!grep { value_of($_, q{SELECT count(*) FROM fanout.table_staleness WHERE staleness IS NULL}) ne '0' }
				  @{ $world->{followers} } });
		wait_for_catchup($world->{leader}{node}, @nodes);
		equal($world);
		is(value_of($world->{leader}, 'SELECT fanout.wait_for_followers(3, fanout.token())'), '3', 'three followers have it all');
		nothing_left_behind($world);
		is(join("\n", map { wrong_lines($_, $lost) } Chaos::Servers::all_servers($world)), '', 'nothing wrong in the logs');
		is(join("\n", Chaos::Workload::unexpected_errors($world)), '', 'clients saw no errors but of servers that ended');
		is(join("\n", @{ delete $world->{wrong} // [] }), '', 'nothing wrong was seen meanwhile');
		Chaos::Workload::go_on($world);
	};
}

# What is known of servers that did not do what was expected.
sub tell_state
{
	my ($world) = @_;
	my @queries = ('SELECT * FROM fanout.streams', 'SELECT * FROM fanout.followers', 'SELECT * FROM fanout.staleness',
		'SELECT * FROM fanout.table_staleness WHERE staleness IS NULL',
		q{SELECT pid, backend_type, state, wait_event_type, wait_event, now() - query_start, left(query, 100) FROM pg_stat_activity});
	for my $server (Chaos::Servers::all_servers($world))
	{
		diag('--- ', Chaos::Servers::name_of($server), $server->{down} ? ' (down)' : '', ' ', $server->{why} // '');
		diag(value_of($server, $_) // 'no answer') for $server->{down} ? () : @queries;
		my @lines = split /\n/, slurp_file($server->{node}->logfile);
		diag(join "\n", map { substr($_, 0, 300) } @lines[ -(@lines < 40 ? @lines : 40) .. -1 ]);
	}
	return;
}

1;
