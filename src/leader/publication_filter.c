/*
 * publication_filter.c
 *		Column lists and row filters: which columns and rows of a table publications publish.
 *
 * Read with the historic snapshot of the transaction that is decoded, like all of
 * publication.c, which has the rules.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_publication_rel.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "leader/publication.h"

/* ---------- column lists ---------- */

/* The columns in the publication's list; NULL: all. */
static Bitmapset *
publication_columns(const Publication *publication, Oid relid)
{
	Bitmapset  *columns = NULL;
	HeapTuple	tuple;
	Datum		datum;
	bool		isnull;

	if (publication->alltables)
		return NULL;
	tuple = SearchSysCache2(PUBLICATIONRELMAP, ObjectIdGetDatum(relid),
							ObjectIdGetDatum(publication->oid));
	if (!HeapTupleIsValid(tuple))
		return NULL;
	datum = SysCacheGetAttr(PUBLICATIONRELMAP, tuple, Anum_pg_publication_rel_prattrs, &isnull);
	if (!isnull)
		columns = pub_collist_to_bitmapset(NULL, datum, CurrentMemoryContext);
	ReleaseSysCache(tuple);
	return columns;
}

Bitmapset *
published_columns(List *publications, Oid relid)
{
	Bitmapset  *all = NULL;
	ListCell   *lc;

	foreach(lc, publications)
	{
		Bitmapset  *columns = publication_columns(lfirst(lc), relid);

		if (columns == NULL)
			return NULL;
		all = bms_add_members(all, columns);
	}
	return all;
}

/* ---------- row filters ---------- */

static bool
publishes(const Publication *publication, RowAction action)
{
	switch (action)
	{
		case ROW_INSERT:
			return publication->pubactions.pubinsert;
		case ROW_UPDATE:
			return publication->pubactions.pubupdate;
		case ROW_DELETE:
			return publication->pubactions.pubdelete;
	}
	return false;
}

/* The publication's filter; NULL: all rows. */
static Node *
publication_filter(const Publication *publication, Oid relid)
{
	Node	   *filter = NULL;
	HeapTuple	tuple;
	Datum		datum;
	bool		isnull;

	if (publication->alltables ||
		SearchSysCacheExists2(PUBLICATIONNAMESPACEMAP,
							  ObjectIdGetDatum(get_rel_namespace(relid)),
							  ObjectIdGetDatum(publication->oid)))
		return NULL;
	tuple = SearchSysCache2(PUBLICATIONRELMAP, ObjectIdGetDatum(relid),
							ObjectIdGetDatum(publication->oid));
	if (!HeapTupleIsValid(tuple))
		return NULL;
	datum = SysCacheGetAttr(PUBLICATIONRELMAP, tuple, Anum_pg_publication_rel_prqual, &isnull);
	if (!isnull)
		filter = stringToNode(TextDatumGetCString(datum));
	ReleaseSysCache(tuple);
	return filter;
}

Expr *
published_filter(List *publications, Oid relid, RowAction action)
{
	List	   *filters = NIL;
	ListCell   *lc;

	foreach(lc, publications)
	{
		Publication *publication = lfirst(lc);
		Node	   *filter;

		if (!publishes(publication, action))
			continue;
		filter = publication_filter(publication, relid);
		if (filter == NULL)
			return NULL;
		filters = lappend(filters, filter);
	}
	if (list_length(filters) <= 1)
		return filters == NIL ? NULL : linitial(filters);
	return make_orclause(filters);
}
