/*-------------------------------------------------------------------------
 *
 * fdw_bounds.c
 *	  Offset bounds that this process has bound to foreign tables
 *
 * IDENTIFICATION
 *	  src/fdw_bounds.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fdw_bounds.h"
#include "fdw_scan.h"
#include "kappa.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

typedef struct BoundTable
{
	Oid relid;
	KappaLog bounds;
} BoundTable;

/* Of BoundTable, a handful at most, in BoundsContext. */
static List *bound_tables = NIL;
static MemoryContext BoundsContext = NULL;

void
kappa_fdw_unbind_bounds(void)
{
	bound_tables = NIL;
	if (BoundsContext != NULL)
		MemoryContextReset(BoundsContext);
}

static void
unbind_at_abort(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		kappa_fdw_unbind_bounds();
}

static BoundTable *
find_bound(Oid relid)
{
	ListCell *lc;

	foreach(lc, bound_tables)
	{
		BoundTable *bound = lfirst(lc);

		if (bound->relid == relid)
			return bound;
	}
	return NULL;
}

static int64 *
copy_offsets(int n, const int64 *offsets)
{
	int64 *copy = palloc(Max(n, 1) * sizeof(int64));

	memcpy(copy, offsets, n * sizeof(int64));
	return copy;
}

void
kappa_fdw_bind_bounds(Oid relid, int n, const int64 *start, const int64 *end)
{
	BoundTable *bound = find_bound(relid);
	MemoryContext old;

	if (BoundsContext == NULL)
	{
		BoundsContext = AllocSetContextCreate(TopMemoryContext, "kappa bounds",
											  ALLOCSET_SMALL_SIZES);
		RegisterXactCallback(unbind_at_abort, NULL);
	}

	old = MemoryContextSwitchTo(BoundsContext);
	if (bound == NULL)
	{
		bound = palloc0(sizeof(BoundTable));
		bound->relid = relid;
		bound_tables = lappend(bound_tables, bound);
	}
	bound->bounds.npartitions = n;
	bound->bounds.begin = copy_offsets(n, start);
	bound->bounds.end = copy_offsets(n, end);
	MemoryContextSwitchTo(old);
}

const KappaLog *
kappa_bounds_get(Oid relid)
{
	BoundTable *bound = find_bound(relid);

	if (bound == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no offsets are bound to foreign table \"%s\"",
						get_rel_name(relid)),
				 errhint("The table alias \"%s\" is reserved for kappa.",
						 KAPPA_BOUNDED_ALIAS)));
	return &bound->bounds;
}

double
kappa_fdw_bound_rows(Oid relid)
{
	BoundTable *bound = find_bound(relid);
	double rows = 0;

	if (bound == NULL)
		return -1;
	for (int32 i = 0; i < bound->bounds.npartitions; i++)
		rows += Max(bound->bounds.end[i] - bound->bounds.begin[i], 0);
	return rows;
}
