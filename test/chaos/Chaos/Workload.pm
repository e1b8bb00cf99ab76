# What writes to the leader and reads from the followers meanwhile.
#
# Everything that writes is pgbench with scripts of ours: a server that is killed ends it,
# and tick() starts it again.  No client remembers the outcome of its commits, so one that is
# unknown does no harm; what depends on outcomes are the two programs of test/client, which
# find out.  Each pgbench lasts a few seconds only: when one of its clients has lost its
# connection, the others go on without it.
package Chaos::Workload;

use strict;
use warnings FATAL => 'all';

use Chaos::Servers;
use Chaos::Shapes;
use Fanout qw(conninfo wait_until);
use FindBin;
use POSIX qw(:sys_wait_h);
use PostgreSQL::Test::Utils;

use constant LASTS => 6;

my $setup = q{
	CREATE TABLE tick (n bigint PRIMARY KEY);
	CREATE TABLE own (session int PRIMARY KEY, value bigint);
	INSERT INTO own SELECT g, 0 FROM generate_series(0, 7) g;
	CREATE TABLE tiny (id int PRIMARY KEY, n bigint NOT NULL);
	INSERT INTO tiny SELECT g, 0 FROM generate_series(1, 100) g;
	CREATE TABLE bulk (id int PRIMARY KEY, v text, w int);
	CREATE INDEX ON bulk (w);
	CREATE TABLE note (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), v text);
	CREATE TABLE keyless (a int, b text);
	ALTER TABLE keyless REPLICA IDENTITY FULL;
	CREATE TABLE parent (id int PRIMARY KEY);
	CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
	CREATE TABLE twins (n numeric, f float8, k int NOT NULL DEFAULT 0);
	ALTER TABLE twins REPLICA IDENTITY FULL;
	CREATE TABLE pairs (id int PRIMARY KEY, code int NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED, other int UNIQUE);
	INSERT INTO pairs SELECT g, g, g FROM generate_series(1, 100) g;
	CREATE TABLE goal (id int PRIMARY KEY);
	INSERT INTO goal SELECT generate_series(1, 50);
	CREATE TABLE command (id bigserial PRIMARY KEY, tag text, half int);
	CREATE FUNCTION note_command() RETURNS event_trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.command (tag, half) VALUES (tg_tag, 1), (tg_tag, 2); END $$;
	CREATE EVENT TRIGGER note_command ON ddl_command_end EXECUTE FUNCTION note_command();
};

# What TPC-B and others leave as it was: every prefix of the commits has it, as any whole transaction
# has.  Ticks come one by one, and a follower's own triggers miss nothing.  While the follower knows how
# stale it is, readers must find all that so.
my $audit = q{
DO $$
DECLARE r record;
BEGIN
	SELECT (SELECT sum(abalance) FROM pgbench_accounts) AS accounts,
		(SELECT sum(tbalance) FROM pgbench_tellers) AS tellers,
		(SELECT sum(bbalance) FROM pgbench_branches) AS branches,
		(SELECT coalesce(sum(delta), 0) FROM pgbench_history) AS history,
		(SELECT coalesce(max(n), 0) FROM tick) AS last_tick, (SELECT count(*) FROM tick) AS ticks,
		(SELECT coalesce(sum(k), 0) FROM twins) AS twins,
		(SELECT format('%s %s %s', sum(code), count(DISTINCT code), count(DISTINCT other)) FROM pairs) AS pairs,
		(SELECT count(*) FROM goal) AS goals,
		(SELECT coalesce(sum(half - 1) * 2 - count(*), 0) FROM command) AS commands,
		(SELECT count(*) FROM tick WHERE n NOT IN (SELECT n FROM local.seen)) AS unseen,
		(SELECT count(*) FROM tiny FULL JOIN local.last USING (id, n) WHERE tiny.id IS NULL OR last.id IS NULL) AS unkept,
		(SELECT count(*) FROM fanout.staleness WHERE staleness IS NOT NULL) AS known INTO r;
	IF r.known > 0 AND (r.accounts <> r.history OR r.tellers <> r.history OR r.branches <> r.history
		OR r.ticks <> r.last_tick OR r.twins <> 0 OR r.pairs <> '5050 100 100' OR r.goals <> 50 OR r.commands <> 0
		OR r.unseen + r.unkept <> 0)
	THEN
		RAISE EXCEPTION 'not a prefix of the commits: %', r;
	END IF;
END $$;
};

my %scripts = (
	tiny => q{
\set k random(1, 100)
UPDATE tiny SET n = n + 1 WHERE id = :k;
},
	lazy => q{
\set k random(1, 100)
SET synchronous_commit = off;
INSERT INTO note (v) VALUES (repeat('n', :k));
DELETE FROM note WHERE id % 100 = :k AND at < now() - interval '20 s';
},
	savepoints => q{
\set k random(1, 100)
\set l random(1, 20000)
BEGIN;
UPDATE tiny SET n = n + 1 WHERE id = :k;
SAVEPOINT a;
INSERT INTO keyless VALUES (:k, 'rolled back');
UPDATE bulk SET w = -1 WHERE id BETWEEN :l AND :l + 100;
SAVEPOINT b;
DELETE FROM bulk WHERE id BETWEEN :l AND :l + 10;
ROLLBACK TO a;
INSERT INTO keyless VALUES (:k, 'kept');
SAVEPOINT c;
DELETE FROM keyless WHERE a = :k - 1;
RELEASE c;
COMMIT;
},
	rolled_back => q{
\set l random(1, 20000)
BEGIN;
UPDATE bulk SET w = w + 1, v = repeat('gone', 30) WHERE id BETWEEN :l AND :l + 1000;
ROLLBACK;
},
	big => q{
\set r random(0, 6)
UPDATE bulk SET w = w + 1 WHERE id % 7 = :r;
},
	bulk => q{
\set from random(1, 20000)
INSERT INTO bulk SELECT g, repeat(md5(g::text), 3), 0 FROM generate_series(:from, :from + 4000) g
	ON CONFLICT (id) DO NOTHING;
},
	shrink => q{
\set from random(1, 20000)
DELETE FROM bulk WHERE id BETWEEN :from AND :from + 5000;
},
	large_values => q{
\set k random(1, 50)
INSERT INTO bulk SELECT 30000 + :k, string_agg(md5(random()::text), ''), 1 FROM generate_series(1, 3000)
	ON CONFLICT (id) DO UPDATE SET w = bulk.w + 1;
},
	cascade => q{
\set k random(1, 50)
BEGIN;
INSERT INTO parent VALUES (:k) ON CONFLICT DO NOTHING;
INSERT INTO child SELECT 1000 * :k + g, :k FROM generate_series(1, 20) g ON CONFLICT DO NOTHING;
COMMIT;
DELETE FROM parent WHERE id = :k - 1;
},
	twins => q{
\set k random(0, 3)
\set f random(0, 1)
BEGIN;
LOCK twins IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO twins (n, f) VALUES (round(1, :k), CASE :f WHEN 0 THEN '0'::float8 ELSE '-0'::float8 END);
UPDATE twins SET k = k + 1 WHERE ctid = (SELECT ctid FROM twins ORDER BY random() LIMIT 1);
UPDATE twins SET k = k - 1 WHERE ctid = (SELECT ctid FROM twins ORDER BY random() LIMIT 1);
DELETE FROM twins WHERE ctid = (SELECT ctid FROM twins WHERE k = 0 ORDER BY random() LIMIT 1);
COMMIT;
},
	pairs => q{
\set k random(1, 99)
\set l random(1, 100)
BEGIN;
LOCK pairs IN SHARE ROW EXCLUSIVE MODE;
UPDATE pairs SET code = 2 * :k + 1 - code WHERE code IN (:k, :k + 1);
UPDATE pairs SET other = -other WHERE id = :l;
SAVEPOINT a;
DELETE FROM pairs WHERE id = :k;
ROLLBACK TO a;
UPDATE pairs SET id = -id WHERE id = :l;
UPDATE pairs SET id = -id WHERE id = -:l;
COMMIT;
},
	goal => q{
BEGIN;
DELETE FROM goal;
INSERT INTO goal SELECT generate_series(1, 50);
COMMIT;
},
	truncate => q{
BEGIN;
TRUNCATE keyless;
INSERT INTO keyless SELECT g % 5, NULL FROM generate_series(1, 100) g;
COMMIT;
},
	prepared => q{
\set k random(1, 1000000000)
\set n random(1, 100)
BEGIN;
UPDATE tiny SET n = n + 1 WHERE id = :n;
INSERT INTO keyless VALUES (:k, 'prepared');
PREPARE TRANSACTION 'p:k';
COMMIT PREPARED 'p:k';
});

# pgbench's arguments: what runs, with which weights, how often a second and for how many clients.
my @writers = (
	{ name => 'tpcb', rate => 40, clients => 2, builtin => 'tpcb-like' },
	{ name => 'small', rate => 25, clients => 2,
		weights => { tiny => 8, lazy => 4, savepoints => 4, cascade => 2, prepared => 2, pairs => 3 } },
	{ name => 'large', rate => 4, clients => 1,
		weights => { big => 2, bulk => 3, shrink => 2, rolled_back => 2, large_values => 2, truncate => 1 } },
	{ name => 'twins', rate => 4, clients => 1, weights => { twins => 4, goal => 1 } },
	{ name => 'shapes', rate => 2, clients => 1, weights => { shapes => 1 } });

# What a client may be told when servers are killed and stopped, or when transactions collide;
# readers of a follower also when it is gone.
my @expected = (qr/FATAL: +(the database system|terminating connection|postmaster exited during)/, qr/ERROR: +deadlock detected/);
my @expected_of_readers = (@expected, qr/ERROR: +relation ".*" does not exist/);

# ---------- the processes ----------

sub prepare
{
	my ($world) = @_;
	my $leader = $world->{leader}{node};
	$world->{dir} = PostgreSQL::Test::Utils::tempdir();
	$scripts{shapes} = $Chaos::Shapes::script;
	$scripts{audit} = $audit;
	for my $name (keys %scripts)
	{
		append_to_file("$world->{dir}/$name.sql", $scripts{$name});
	}
	system_or_bail('pgbench', '-i', '-q', '-s', '1', $leader->connstr('postgres'));
	$leader->safe_psql('postgres', $setup . $Chaos::Shapes::setup);
	return;
}

# Output goes to files; the program ends when we close what it reads from.
sub spawn
{
	my ($world, $name, @command) = @_;
	pipe(my $read, my $write) or die $!;
	my $pid = fork() // die $!;
	if ($pid == 0)
	{
		close $write;
		open(STDIN, '<&', $read) or POSIX::_exit(1);
		open(STDOUT, '>>', "$world->{dir}/$name.out") or POSIX::_exit(1);
		open(STDERR, '>>', "$world->{dir}/$name.err") or POSIX::_exit(1);
		exec(@command) or POSIX::_exit(1);
	}
	close $read;
	return { name => $name, pid => $pid, input => $write };
}

sub ended
{
	my ($process) = @_;
	return 1 if !$process || defined $process->{status};
	return 0 if waitpid($process->{pid}, WNOHANG) == 0;
	$process->{status} = $?;
	return 1;
}

sub pgbench
{
	my ($world, $server, $name, $rate, $clients, @what) = @_;
	return spawn($world, $name, 'pgbench', '-n', '-R', $rate, '-c', $clients, '-T', LASTS, '--max-tries=20',
		'--random-seed=' . int(rand(1 << 30)), @what, $server->{node}->connstr('postgres'));
}

# A server that ended between PREPARE and COMMIT PREPARED has left that to us.
sub decide_prepared
{
	my ($world) = @_;
	my $left = Chaos::Servers::value_of($world->{leader}, 'SELECT gid FROM pg_prepared_xacts');
	Chaos::Servers::run_on($world->{leader}, "COMMIT PREPARED '$_'") for split /\n/, $left // '';
	return;
}

# While there is work, a process of its own does that: we may be waiting for locks of such a
# transaction ourselves.
my $decide = q{while sleep 1; do
	psql -XAt -d "$0" -c "SELECT format('COMMIT PREPARED %L', gid) FROM pg_prepared_xacts
		WHERE prepared < clock_timestamp() - interval '3 s'" | psql -Xq -d "$0"
done 2>/dev/null};

sub start_decider
{
	my ($world) = @_;
	return unless ended($world->{writers}{decider});
	$world->{writers}{decider} =
	  spawn($world, 'decider', 'sh', '-c', $decide, $world->{leader}{node}->connstr('postgres'));
	return;
}

# Start what has ended; without schema changes when they can't be had.
sub tick
{
	my ($world) = @_;
	start_decider($world);
	for my $writer (@writers)
	{
		next if $writer->{name} eq 'shapes' && !$world->{schema_changes};
		next if $world->{leader}{down} || !ended($world->{writers}{ $writer->{name} });
		my @what = $writer->{builtin} ? ('-b', $writer->{builtin})
		  : map { ('-f', "$world->{dir}/$_.sql\@$writer->{weights}{$_}") } sort keys %{ $writer->{weights} };
		$world->{writers}{ $writer->{name} } =
		  pgbench($world, $world->{leader}, @$writer{qw(name rate clients)}, @what);
	}
	for my $follower (@{ $world->{followers} })
	{
		my $name = 'audit_' . Chaos::Servers::name_of($follower);
		next if $follower->{down} || !ended($world->{writers}{$name});
		$world->{writers}{$name} = pgbench($world, $follower, $name, 2, 1, '-f', "$world->{dir}/audit.sql");
	}
	return;
}

# Clients that check what they read run from the first moment to the last.
sub start_checkers
{
	my ($world) = @_;
	my @conninfos = map { conninfo($_->{node}) } Chaos::Servers::all_servers($world);
	my $client = "$FindBin::Bin/../client";
	$world->{checkers}{truth} = spawn($world, 'truth', "$client/truth", 'bound', 0, @conninfos);
	$world->{checkers}{own_writes} = spawn($world, 'own_writes', "$client/own_writes", 'token', 0, 4, @conninfos);
	return;
}

# ---------- quiet ----------

sub wait_for_end
{
	my ($process) = @_;
	wait_until("$process->{name} to end", sub { ended($process) });
	return;
}

# Have a checker finish what it is at and begin nothing new.
sub rest
{
	my ($world, $checker) = @_;
	my $rests = ++$checker->{rests};
	syswrite($checker->{input}, "rest\n");
	wait_until("$checker->{name} to rest", sub {
			ended($checker) || $rests == (() = slurp_file("$world->{dir}/$checker->{name}.out") =~ /resting/g) });
	die "$checker->{name} ended: " . slurp_file("$world->{dir}/$checker->{name}.err") if ended($checker);
	return;
}

# Nobody writes any more, and what was prepared is decided.
sub still
{
	my ($world) = @_;
	my @running = grep { !ended($_) } values %{ $world->{writers} };
	kill 'TERM', $_->{pid} for @running;
	wait_for_end($_) for @running;
	$world->{writers} = {};
	rest($world, $_) for values %{ $world->{checkers} };
	wait_until('the last transactions to end', sub {
			decide_prepared($world);
			(Chaos::Servers::value_of($world->{leader}, q{SELECT count(*) FROM pg_stat_activity
				WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()
				  AND query NOT LIKE 'sending stream%'}) // '') eq '0' });
	decide_prepared($world);
	return;
}

sub go_on
{
	my ($world) = @_;
	syswrite($_->{input}, "go on\n") for values %{ $world->{checkers} };
	return;
}

# What the checkers printed, by name; and they must have ended well.
sub end_checkers
{
	my ($world) = @_;
	my %results;
	for my $process (values %{ $world->{checkers} })
	{
		close $process->{input};
		wait_for_end($process);
		$results{ $process->{name} } = slurp_file("$world->{dir}/$process->{name}.out") =~ s/resting\n//gr;
		$results{ $process->{name} } = "failed with $process->{status}: " . slurp_file("$world->{dir}/$process->{name}.err")
		  if $process->{status} != 0;
	}
	$world->{checkers} = {};
	return \%results;
}

# At the end, however it comes.
sub kill_all
{
	my ($world) = @_;
	my @left = grep { !ended($_) } values %{ $world->{writers} }, values %{ $world->{checkers} };
	kill 'KILL', $_->{pid} for @left;
	waitpid($_->{pid}, 0) for @left;
	return;
}

# Errors that do not come from servers that end.
sub unexpected_errors
{
	my ($world) = @_;
	my @wrong;
	for my $file (glob("$world->{dir}/*.err"))
	{
		my ($name) = $file =~ m{([^/]+)\.err$};
		next if $world->{checkers}{$name};
		my @fine = $name =~ /^audit/ ? @expected_of_readers : @expected;
		for my $line (grep { /ERROR: |FATAL: |PANIC: |WARNING: (?!.*terminating)/ } split /\n/, slurp_file($file))
		{
			push @wrong, "$name: $line" unless grep { $line =~ $_ } @fine;
		}
		truncate($file, 0) or die $!;
	}
	return @wrong;
}

# How many transactions each writer and reader has finished.
sub finished
{
	my ($world) = @_;
	my %count;
	for my $file (glob("$world->{dir}/*.out"))
	{
		my ($name) = $file =~ m{([^/]+)\.out$};
		$count{$name} += $_ for slurp_file($file) =~ /^number of transactions actually processed: (\d+)/mg;
	}
	return %count;
}

1;
