/*
 * extension_script.c
 *		What of the rows that an extension's script writes is its own?
 *
 * CREATE EXTENSION and ALTER EXTENSION ... UPDATE run scripts, and followers run theirs: the
 * rows of the tables that belong to the extension they make themselves, maybe others if their
 * version is another one.  What a script writes to any other table is data like all other: it
 * is in the stream (leader/decode_ddl.c), and a follower's script does not write
 * there (follower/guard_code.c).
 *
 * Both sides draw the line here.  A script may have other extensions made first (CASCADE), so
 * those count as its own that were not there before.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "utils/rel.h"

#include "extension_script.h"

List *
extension_script_others(const char *name)
{
	List	   *others = NIL;
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_extension form = (Form_pg_extension) GETSTRUCT(tuple);

		if (strcmp(NameStr(form->extname), name) != 0)
			others = lappend_oid(others, form->oid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return others;
}

bool
extension_script_owns(Oid relid, List *others)
{
	Oid			extension = getExtensionOfObject(RelationRelationId, relid);

	return OidIsValid(extension) && !list_member_oid(others, extension);
}
