/*-------------------------------------------------------------------------
 *
 * swap_index.h
 *	  Give a table the indexes that another one has
 *
 * IDENTIFICATION
 *	  src/swap_index.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_SWAP_INDEX_H
#define KAPPA_SWAP_INDEX_H

#include "nodes/pg_list.h"
#include "utils/relcache.h"

/*
 * Indexes of two tables that are the same by definition, one to one.  The
 * first two lists are parallel.  Names, comments, storage parameters and
 * tablespaces do not count: nothing in the files depends on them.  Nor do
 * indexes of the target on columns that the shadow has lost.
 */
typedef struct KappaIndexMatch
{
	List *target;      /* OIDs of the target's indexes */
	List *shadow;      /* and of their counterparts */
	List *only_target; /* without a counterpart */
	List *only_shadow;
} KappaIndexMatch;

/* The caller holds a lock on both tables.  palloc'd in CurrentMemoryContext. */
extern KappaIndexMatch *kappa_swap_match_indexes(Relation target, Relation shadow);

/* True if each index of either table has its counterpart.  Needs a transaction. */
extern bool kappa_swap_indexes_equal(Oid target, Oid shadow);

/*
 * Does a table have an index on whole rows?  Another table has rows of another
 * type, so it cannot have the same index.  The caller holds a lock on it.
 */
extern bool kappa_swap_has_row_index(Oid target);

/*
 * Create on the shadow the indexes that only the target has, and drop those
 * that only the shadow has.  Needs a transaction with an active snapshot; runs
 * as the shadow's owner.  The target is locked in ACCESS SHARE mode, and only
 * while its indexes are read; the shadow in SHARE mode or stronger until the
 * end of the transaction.
 */
extern void kappa_swap_build_indexes(Oid target, Oid shadow);

#endif /* KAPPA_SWAP_INDEX_H */
