# What a leader with bad intentions could send: messages of change log frames with right
# checksums (src/log/format.h and change.h have the layouts).
package Forge;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
our @EXPORT = qw(frames frame transaction relation statement progress);

my @table = map {
	my $c = $_;
	$c = $c & 1 ? ($c >> 1) ^ 0x82F63B78 : $c >> 1 for 1 .. 8;
	$c;
} 0 .. 255;

sub crc32c
{
	my $crc = 0xFFFFFFFF;
	$crc = ($crc >> 8) ^ $table[ ($crc ^ $_) & 0xFF ] for unpack('C*', $_[0]);
	return $crc ^ 0xFFFFFFFF;
}

sub frame
{
	my ($type, $flags, $payload) = @_;
	my $bytes = pack('NaCn', length($payload), $type, $flags, 0) . $payload;
	return pack('N', crc32c($bytes)) . $bytes;
}

# A message of frames, as hexadecimal digits for Proxy.
sub frames
{
	return unpack('H*', 'F' . join('', @_));
}

# A transaction in one frame; its end LSN, the length of its commit record and its time can be given.
sub transaction
{
	my ($changes, %txn) = @_;
	my $end = $txn{end} // 1 << 46;
	return frame('C', $txn{flags} // 3,
		pack('Q>2 N Q>2', 1 << 40, $end, $txn{record} // 8, $txn{time} // 0, 1) . $changes);
}

# The description of a relation; columns are [name, type oid, type length, form, is_key].
sub relation
{
	my ($relid, $nspname, $relname, @columns) = @_;
	my $payload = pack('N n/a n/a a n', $relid, $nspname, $relname, 'd', scalar @columns);
	$payload .= pack('n/a N N n a C', $_->[0], $_->[1], 0xFFFFFFFF, $_->[2] & 0xFFFF, $_->[3], $_->[4])
	  for @columns;
	return frame('R', 0, $payload);
}

# A schema change by a role, with settings (name, value...).
sub statement
{
	my ($role, $text, @settings) = @_;
	my $statement = pack('C N N/a N/a q>2 N', 0, 1, $role, $role, 0, 0, scalar @settings)
	  . join('', map { pack('N/a', $_) } @settings) . pack('N N N/a', 0, 0, $text);
	return pack('a N/a', 'S', $statement);
}

sub progress
{
	my ($decoded, $wal_end) = @_;
	return unpack('H*', pack('aQ>3', 'P', $decoded, $wal_end, 1));
}

1;
