# A process between follower and leader that passes the bytes of connections on, and cuts,
# delays and forges when it is told to.
#
# It listens on a unix socket, as a server would, so that a follower connects to it with
# host and port.  Orders are lines on a pipe, each answered with one when it is done:
#
#	cut            end all connections, and refuse new ones
#	hold           pass nothing on, but keep connections open
#	delay N        pass everything on N ms later
#	lossy N        of the pieces, hold up N percent as TCP does when packets are lost,
#	               and now and then lose the connection
#	pass           pass everything on at once again
#	forge HEX      put a message of the leader's into every connection that streams
package Proxy;

use strict;
use warnings FATAL => 'all';

use IO::Handle;
use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

use constant TICK => 0.02;

# Listen where $node does, under a port of its own; several need to be numbered.
sub new
{
	my ($class, $node, $number) = @_;
	my $self = bless { host => $node->host, port => ($node->port + 30000 + ($number // 0)) % 65536,
		target => $node->host . '/.s.PGSQL.' . $node->port }, $class;
	pipe(my $order_out, $self->{orders}) or die $!;
	pipe($self->{answers}, my $answer_in) or die $!;
	$self->{orders}->autoflush(1);
	$answer_in->autoflush(1);
	my $path = $self->{host} . '/.s.PGSQL.' . $self->{port};
	unlink $path;
	my $server = IO::Socket::UNIX->new(Local => $path, Listen => 50) or die "$path: $!";
	$self->{path} = $path;
	$self->{pid} = fork() // die $!;
	if ($self->{pid} == 0)
	{
		close $self->{orders};
		eval { serve($self, $server, $order_out, $answer_in) };
		print STDERR $@ if $@;
		require POSIX;
		POSIX::_exit(0);
	}
	close $order_out;
	return $self;
}

sub conninfo
{
	my ($self) = @_;
	return "host=$self->{host} port=$self->{port} dbname=postgres";
}

sub order
{
	my ($self, $line) = @_;
	$self->{orders}->print("$line\n");
	return readline($self->{answers});
}

sub stop
{
	my ($self) = @_;
	close $self->{orders};
	waitpid($self->{pid}, 0);
	unlink $self->{path};
	return;
}

# ---------- the process ----------

# One direction of a connection: bytes on their way, each piece with the time it may go.
sub make_way
{
	my ($from, $to, $of_leader) = @_;
	return { from => $from, to => $to, of_leader => $of_leader, queue => [], parsed => '' };
}

sub serve
{
	my ($self, $server, $orders, $answers) = @_;
	local $SIG{PIPE} = 'IGNORE';
	my %state = (mode => 'pass', delay => 0, loss => 0, ways => []);
	while (1)
	{
		my $reading = IO::Select->new($orders, $server);
		# What is queued is bounded: a slow way is not read from.
		$reading->add($_->{from}) for grep { @{ $_->{queue} } < 100 } @{ $state{ways} };
		for my $handle ($reading->can_read(TICK))
		{
			if ($handle == $orders)
			{
				my $line = readline($orders) // return;
				obey(\%state, $line);
				$answers->print("done\n");
			}
			elsif ($handle == $server)
			{
				accept_one($self, \%state, $server);
			}
			else
			{
				receive(\%state, $_) for grep { $_->{from} == $handle } @{ $state{ways} };
			}
		}
		pass_on(\%state);
		drop_ended(\%state);
	}
	return;
}

sub obey
{
	my ($state, $line) = @_;
	my ($verb, $argument) = split ' ', $line;
	if ($verb eq 'forge')
	{
		my $payload = pack('H*', $argument);
		my $message = 'd' . pack('N', length($payload) + 4) . $payload;
		push @{ $_->{queue} }, [ 0, $message ] for grep { $_->{streams} } @{ $state->{ways} };
		return;
	}
	$state->{mode} = $verb =~ /^(delay|lossy)$/ ? 'pass' : $verb;
	$state->{delay} = $verb eq 'delay' ? $argument / 1000 : 0;
	$state->{loss} = $verb eq 'lossy' ? $argument / 100 : 0;
	$_->{ended} = 1 for $verb eq 'cut' ? @{ $state->{ways} } : ();
	return;
}

sub accept_one
{
	my ($self, $state, $server) = @_;
	my $client = $server->accept or return;
	my $target = $state->{mode} eq 'cut' ? undef : IO::Socket::UNIX->new(Peer => $self->{target});
	return unless $target;
	$_->blocking(0) for $client, $target;
	push @{ $state->{ways} }, make_way($client, $target, 0), make_way($target, $client, 1);
	return;
}

sub receive
{
	my ($state, $way) = @_;
	my $n = sysread($way->{from}, my $bytes, 65536);
	return if !defined $n && $!{EAGAIN};
	if (!$n)
	{
		$way->{at_end} = 1;
		return;
	}
	my $delay = $state->{delay} + lost_for($state, $way);
	push @{ $way->{queue} }, [ time() + $delay, $_ ]
	  for $way->{of_leader} ? messages($way, $bytes) : $bytes;
	return;
}

# How long until what is lost has been sent again: 0.2 s, and double that for each further
# loss.  After five in a row the connection is.
sub lost_for
{
	my ($state, $way) = @_;
	my ($wait, $losses) = (0, 0);
	while (rand() < $state->{loss})
	{
		$wait += 0.2 * 2**$losses;
		$way->{ended} = 1 if ++$losses == 5;
		last if $losses == 5;
	}
	return $wait;
}

# Whole messages of the leader, so that a forged one comes between two; remembers when
# CopyBothResponse was one of them.
sub messages
{
	my ($way, $bytes) = @_;
	my @whole;
	$way->{parsed} .= $bytes;
	while (length($way->{parsed}) >= 5)
	{
		my ($type, $len) = unpack('aN', $way->{parsed});
		last if length($way->{parsed}) < $len + 1;
		$way->{streams} = 1 if $type eq 'W';
		push @whole, substr($way->{parsed}, 0, $len + 1, '');
	}
	return @whole;
}

sub pass_on
{
	my ($state) = @_;
	return if $state->{mode} eq 'hold';
	for my $way (@{ $state->{ways} })
	{
		while (!$way->{ended} && @{ $way->{queue} } && $way->{queue}[0][0] <= time())
		{
			my $n = syswrite($way->{to}, $way->{queue}[0][1]);
			last if !defined $n && $!{EAGAIN};
			$way->{ended} = 1 unless defined $n;
			substr($way->{queue}[0][1], 0, $n // 0, '');
			shift @{ $way->{queue} } if $way->{queue}[0][1] eq '';
		}
		$way->{ended} = 1 if $way->{at_end} && !@{ $way->{queue} };
	}
	return;
}

# Both ways of a connection end together.
sub drop_ended
{
	my ($state) = @_;
	my %gone = map { fileno($_->{from}) => 1, fileno($_->{to}) => 1 } grep { $_->{ended} } @{ $state->{ways} };
	return unless %gone;
	my @left;
	for my $way (@{ $state->{ways} })
	{
		if ($gone{ fileno($way->{from}) })
		{
			$way->{from}->shutdown(2);
		}
		else
		{
			push @left, $way;
		}
	}
	$state->{ways} = \@left;
	return;
}

1;
