-- What the leader needs for the suite to run with a stream of all tables: statements
-- about roles in a table (roles.c), and whole rows in the WAL for tables without a key.
CREATE SCHEMA core_suite;
CREATE TABLE core_suite.role_statement (statement text);

CREATE FUNCTION core_suite.run_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE NEW.statement;
	RETURN NULL;
END $$;
CREATE TRIGGER run_statement AFTER INSERT ON core_suite.role_statement
	FOR EACH ROW EXECUTE FUNCTION core_suite.run_statement();
ALTER TABLE core_suite.role_statement ENABLE REPLICA TRIGGER run_statement;

CREATE FUNCTION core_suite.log_whole_rows() RETURNS event_trigger LANGUAGE plpgsql
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	relation regclass;
BEGIN
	FOR relation IN
		SELECT c.oid FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_class'::regclass AND c.relkind = 'r' AND c.relpersistence = 'p'
		  AND c.relreplident = 'd'
		  AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
	LOOP
		EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', relation);
	END LOOP;
END $$;
CREATE EVENT TRIGGER log_whole_rows ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA')
	EXECUTE FUNCTION core_suite.log_whole_rows();
