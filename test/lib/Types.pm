# Tables of every type that a table may have, with values.
package Types;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';

our @EXPORT = qw(types_as_sql);

# Three values each as text, the third being NULL.
my %values = (
	boolean => [ 't', 'f' ], smallint => [ -32768, 32767 ], integer => [ -2147483648, 7 ],
	bigint => [ '-9223372036854775808', 9 ], real => [ 'NaN', '1.5e-30' ],
	'double precision' => [ '-Infinity', '0.1' ], numeric => [ 'NaN', '123456789012345678901234567890.123456789' ],
	'numeric(10,2)' => [ '1.25', '-99999999.99' ], money => [ '-12.34', '5' ],
	text => [ '', "quote ' back \\ uml \x{e4}" ], varchar => [ 'v', '' ], 'varchar(5)' => [ 'abcde', 'x' ],
	'char(4)' => [ 'ab', '' ], '"char"' => [ 'x', '' ], name => [ 'n' x 63, 'm' ],
	bytea => [ '\\x00ff', '' ], date => [ 'infinity', '0044-03-15 BC' ], time => [ '24:00:00', '00:00:00.000001' ],
	timetz => [ '12:00:00+15', '00:00:00-15' ], timestamp => [ '-infinity', '1999-12-31 23:59:59.999999' ],
	timestamptz => [ 'infinity', '2026-01-01 00:00:00+00' ], interval => [ '-1 year 3 days 04:05:06.7', '0' ],
	uuid => [ 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '00000000-0000-0000-0000-000000000000' ],
	json => [ '{"a": 1}', '[]' ], jsonb => [ '{"a": [1, null, "x"]}', 'null' ], jsonpath => [ '$.a[*]', '$' ],
	xml => [ '<a>b</a>', 'x' ], inet => [ '10.1.2.3/8', '::1' ], cidr => [ '10.0.0.0/8', '::/0' ],
	macaddr => [ '08:00:2b:01:02:03', '00:00:00:00:00:00' ], macaddr8 => [ '08:00:2b:01:02:03:04:05', 'ff:ff:ff:ff:ff:ff:ff:ff' ],
	bit => [ '1', '0' ], 'bit varying' => [ '10101', '' ], point => [ '(1,2)', '(NaN,Infinity)' ],
	line => [ '{1,2,3}', '{0,1,0}' ], lseg => [ '[(1,2),(3,4)]', '[(0,0),(0,0)]' ], box => [ '(3,4),(1,2)', '(0,0),(0,0)' ],
	path => [ '((1,2),(3,4))', '[(0,0)]' ], polygon => [ '((1,2),(3,4))', '((0,0))' ], circle => [ '<(1,2),3>', '<(0,0),0>' ],
	tsvector => [ "'fat':2 'rat':3A", '' ], tsquery => [ "'fat' & 'rat':A", '' ],
	int4range => [ '[1,10)', 'empty' ], numrange => [ '(,1.5]', 'empty' ], tstzrange => [ '["2020-01-01 00:00:00+00",)', '(,)' ],
	int4multirange => [ '{[1,3),[5,7)}', '{}' ], 'int[]' => [ '{1,NULL,3}', '[0:1]={1,2}' ], 'text[]' => [ '{"a,b",NULL,""}', '{{a,b},{c,d}}' ],
	'jsonb[]' => [ '{"{\\"a\\": 1}"}', '{}' ], oid => [ '4294967295', '0' ], xid8 => [ '12345678901', '0' ], tid => [ '(1,2)', '(0,0)' ],
	pg_lsn => [ 'FFFFFFFF/FFFFFFFF', '0/0' ], regclass => [ 'pg_class', 'pg_type' ], regtype => [ 'integer', 'text' ],
	oidvector => [ '1 2 3', '' ], int2vector => [ '1 2', '' ], pg_snapshot => [ '10:20:10,14', '1:1:' ],
	'mood' => [ 'happy', 'sad' ], 'mood[]' => [ '{happy,sad}', '{}' ], pair => [ '(1,x)', '(,)' ], small => [ '3', '9' ],
	regrole => [ 'pg_monitor', 'pg_read_all_data' ], aclitem => [ 'postgres=r/postgres', '=r/postgres' ]);

# Statements that make a table for each type, and a function that returns statements
# which insert the values, with keys from a number on, and update some.
sub types_as_sql
{
	my $tables = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (a int, b text);"
	  . 'CREATE DOMAIN small AS int CHECK (VALUE < 10);';
	my ($inserts, $n) = ('', 0);
	for my $type (sort keys %values)
	{
		$n++;
		$tables .= "CREATE TABLE type_$n (id int PRIMARY KEY, v $type);";
		my $id = 0;
		for my $value (@{ $values{$type} }, undef)
		{
			$id++;
			my $literal = defined $value ? 'E\'' . ($value =~ s/([\\'])/\\$1/gr) . "'" : 'NULL';
			$inserts .= "INSERT INTO type_$n VALUES (%d + $id, $literal);\n";
		}
		$inserts .= "UPDATE type_$n SET v = (SELECT v FROM type_$n WHERE id = %d + 2) WHERE id = %d + 1;\n";
	}
	utf8::encode($inserts);
	return ($tables, sub { my ($from) = @_; return $inserts =~ s/%d/$from/gr; });
}

1;
