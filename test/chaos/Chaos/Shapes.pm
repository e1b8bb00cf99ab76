# Schema changes as part of the workload: one pgbench script that takes a random step on one
# of four tables, or on one that others write to meanwhile.  A step may find the table in any
# shape, or not at all.
package Chaos::Shapes;

use strict;
use warnings FATAL => 'all';

our $setup = q{
	CREATE TYPE mood AS ENUM ('sad', 'ok');
	CREATE TABLE split (id int, region int, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
	CREATE TABLE split_rest PARTITION OF split DEFAULT;
};

# In a function's block, what finds no table does nothing.
sub careful
{
	my ($statements) = @_;
	return "DO \$\$ BEGIN $statements EXCEPTION WHEN undefined_table OR undefined_column OR duplicate_table OR duplicate_column"
	  . " OR check_violation OR unique_violation OR datatype_mismatch OR wrong_object_type THEN NULL; END \$\$;";
}

my $rows = 'INSERT INTO shape_:t (id, v) SELECT g, md5(g::text) FROM generate_series(:n, :n + 50) g'
  . ' ON CONFLICT DO NOTHING;';

my @steps = (
	"BEGIN;\nCREATE TABLE IF NOT EXISTS shape_:t (id int PRIMARY KEY, v text);\n$rows\nCOMMIT;",
	"CREATE TABLE IF NOT EXISTS shape_:t (id int PRIMARY KEY, v text);",
	careful($rows),
	careful('UPDATE shape_:t SET v = md5(v) WHERE id % 3 = :k; DELETE FROM shape_:t WHERE id % 7 = :k;'),
	careful("$rows ALTER TABLE shape_:t ADD COLUMN c:k int DEFAULT :n; UPDATE shape_:t SET c:k = id WHERE id > :n;"),
	'ALTER TABLE IF EXISTS shape_:t DROP COLUMN IF EXISTS c:k;',
	careful('ALTER TABLE shape_:t ALTER COLUMN c:k TYPE bigint USING c:k * 2;'),
	careful('ALTER TABLE shape_:t RENAME COLUMN c:k TO d:k;'),
	'ALTER TABLE IF EXISTS shape_:t DROP COLUMN IF EXISTS d:k;',
	careful('CREATE INDEX IF NOT EXISTS by_v_:t ON shape_:t (v);'),
	'DROP INDEX IF EXISTS by_v_:t;',
	'DROP TABLE IF EXISTS shape_:t;',
	careful('TRUNCATE shape_:t;'),
	"BEGIN;\nSAVEPOINT a;\nALTER TABLE IF EXISTS shape_:t ADD COLUMN IF NOT EXISTS gone int;\nROLLBACK TO a;\n"
	  . careful($rows) . "\nALTER TABLE IF EXISTS shape_:t ADD COLUMN IF NOT EXISTS c:k int;\nCOMMIT;",
	"BEGIN;\nDROP TABLE IF EXISTS shape_:t;\n"
	  . "CREATE TABLE shape_:t (id int PRIMARY KEY, m mood, v text DEFAULT 'x');\n$rows\nCOMMIT;",
	"ALTER TYPE mood ADD VALUE IF NOT EXISTS 'level:n';",
	'ALTER TABLE bulk ADD COLUMN IF NOT EXISTS extra:k int DEFAULT :n;',
	'ALTER TABLE bulk DROP COLUMN IF EXISTS extra:k;',
	careful('INSERT INTO split SELECT g, g % 4, md5(g::text) FROM generate_series(:n, :n + 40) g ON CONFLICT DO NOTHING;'),
	careful('CREATE TABLE split_:t PARTITION OF split FOR VALUES IN (:t);'),
	careful('ALTER TABLE split DETACH PARTITION split_:t; DROP TABLE split_:t;'),
	'DELETE FROM split WHERE region = :t;',
	"BEGIN;\nDROP TABLE IF EXISTS made_:t;\nCREATE TABLE made_:t AS SELECT id, v FROM bulk WHERE id % 500 = :k;\nCOMMIT;",
	careful('ALTER TABLE shape_:t ADD COLUMN luck float DEFAULT random();'),
	'ALTER TABLE IF EXISTS shape_:t DROP COLUMN IF EXISTS luck;',
	'CREATE OR REPLACE VIEW seen AS SELECT id, :n AS n FROM tiny;');

sub script
{
	my $text = "\\set t random(1, 4)\n\\set k random(0, 2)\n\\set n random(1, 400)\n\\set step random(0, $#steps)\n";
	for my $i (0 .. $#steps)
	{
		$text .= ($i == 0 ? '\if' : '\elif') . " :step = $i\n$steps[$i]\n";
	}
	return "$text\\endif\n";
}

our $script = script();

1;
