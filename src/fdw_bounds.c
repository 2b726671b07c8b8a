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
	List *gaps; /* of KappaRange, sorted by partition and start, disjoint */

	bool numbered; /* see kappa_fdw_number_messages */

	/* Of scans that have ended: between the bounds, and after them. */
	uint64 offsets[2];
	uint64 messages[2];
	uint64 bytes[2];
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

/* Also at commit: an error may have been caught by a subtransaction. */
static void
unbind_at_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT ||
		event == XACT_EVENT_PREPARE)
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
		RegisterXactCallback(unbind_at_end, NULL);
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
	bound->gaps = NIL;
	bound->numbered = false;
	memset(bound->offsets, 0, sizeof(bound->offsets));
	memset(bound->messages, 0, sizeof(bound->messages));
	memset(bound->bytes, 0, sizeof(bound->bytes));
	MemoryContextSwitchTo(old);
}

static BoundTable *
require_bound(Oid relid)
{
	BoundTable *bound = find_bound(relid);

	if (bound == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no offsets are bound to foreign table \"%s\"",
						get_rel_name(relid)),
				 errhint("The table alias \"%s\" is reserved for kappa.",
						 KAPPA_BOUNDED_ALIAS)));
	return bound;
}

const KappaLog *
kappa_bounds_get(Oid relid)
{
	return &require_bound(relid)->bounds;
}

void
kappa_fdw_number_messages(Oid relid)
{
	require_bound(relid)->numbered = true;
}

int64
kappa_bounds_get_offset(Oid relid, int partition, int64 place)
{
	BoundTable *bound = find_bound(relid);

	if (bound == NULL || !bound->numbered || partition >= bound->bounds.npartitions)
		return place;
	return bound->bounds.begin[partition] + place;
}

/* ---- gaps ---- */

/* Clip a gap to the bounds; false if nothing is left of it. */
static bool
clip_gap(const KappaLog *bounds, KappaRange *gap)
{
	if (gap->partition < 0 || gap->partition >= bounds->npartitions)
		return false;
	gap->start = Max(gap->start, bounds->begin[gap->partition]);
	gap->end = Min(gap->end, bounds->end[gap->partition]);
	return gap->start < gap->end;
}

static int
compare_gaps(const ListCell *a, const ListCell *b)
{
	const KappaRange *left = lfirst(a);
	const KappaRange *right = lfirst(b);

	if (left->partition != right->partition)
		return left->partition < right->partition ? -1 : 1;
	if (left->start != right->start)
		return left->start < right->start ? -1 : 1;
	return 0;
}

/* Join gaps that overlap or touch; the list is sorted. */
static List *
merge_gaps(List *gaps)
{
	List *merged = NIL;
	ListCell *lc;

	foreach(lc, gaps)
	{
		KappaRange *gap = lfirst(lc);
		KappaRange *last = merged == NIL ? NULL : llast(merged);

		if (last != NULL && last->partition == gap->partition && last->end >= gap->start)
			last->end = Max(last->end, gap->end);
		else
			merged = lappend(merged, gap);
	}
	return merged;
}

void
kappa_fdw_bind_gap(Oid relid, int32 partition, int64 start, int64 end)
{
	BoundTable *bound = require_bound(relid);
	KappaRange range = { .partition = partition, .start = start, .end = end };
	MemoryContext old;
	KappaRange *gap;

	if (!clip_gap(&bound->bounds, &range))
		return;
	old = MemoryContextSwitchTo(BoundsContext);
	gap = palloc(sizeof(KappaRange));
	*gap = range;
	bound->gaps = lappend(bound->gaps, gap);
	list_sort(bound->gaps, compare_gaps);
	bound->gaps = merge_gaps(bound->gaps);
	MemoryContextSwitchTo(old);
}

int
kappa_bounds_cut_gaps(Oid relid, KappaRange **ranges, int n)
{
	List *gaps = require_bound(relid)->gaps;
	KappaRange *pieces;
	int npieces = 0;

	if (gaps == NIL)
		return n;

	/* Each gap cuts at most one range in two: those of a partition are disjoint. */
	pieces = palloc((n + list_length(gaps)) * sizeof(KappaRange));
	for (int i = 0; i < n; i++)
	{
		KappaRange rest = (*ranges)[i];
		ListCell *lc;

		foreach(lc, gaps)
		{
			const KappaRange *gap = lfirst(lc);

			if (gap->partition != rest.partition ||
				gap->end <= rest.start || gap->start >= rest.end)
				continue;
			if (gap->start > rest.start)
			{
				pieces[npieces] = rest;
				pieces[npieces++].end = gap->start;
			}
			rest.start = gap->end;
		}
		if (rest.start < rest.end)
			pieces[npieces++] = rest;
	}
	pfree(*ranges);
	*ranges = pieces;
	return npieces;
}

/* ---- counting ---- */

double
kappa_fdw_bound_rows(Oid relid)
{
	BoundTable *bound = find_bound(relid);
	double rows = 0;
	ListCell *lc;

	if (bound == NULL)
		return -1;
	for (int32 i = 0; i < bound->bounds.npartitions; i++)
		rows += Max(bound->bounds.end[i] - bound->bounds.begin[i], 0);
	foreach(lc, bound->gaps)
	{
		const KappaRange *gap = lfirst(lc);

		rows -= gap->end - gap->start;
	}
	return rows;
}

void
kappa_bounds_count(Oid relid, bool later, uint64 offsets, uint64 messages, uint64 bytes)
{
	BoundTable *bound = find_bound(relid);

	if (bound == NULL)
		return;
	bound->offsets[later] += offsets;
	bound->messages[later] += messages;
	bound->bytes[later] += bytes;
}

void
kappa_fdw_count_read(Oid relid, uint64 *messages, uint64 *bytes)
{
	BoundTable *bound = require_bound(relid);

	*messages = bound->messages[0];
	*bytes = bound->bytes[0];
}

int64
kappa_fdw_count_holes(Oid relid, bool later)
{
	BoundTable *bound = find_bound(relid);

	return bound == NULL ? 0 : (int64) (bound->offsets[later] - bound->messages[later]);
}
