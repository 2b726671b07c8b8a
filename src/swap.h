/*-------------------------------------------------------------------------
 *
 * swap.h
 *	  Exchange the storage of two tables
 *
 * IDENTIFICATION
 *	  src/swap.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_SWAP_H
#define KAPPA_SWAP_H

#include "nodes/pg_list.h"
#include "storage/lock.h"

/*
 * Lock relations in ACCESS EXCLUSIVE mode, in the order of the list, with
 * their indexes and toast tables; wait at most lock_timeout_ms for each single
 * lock.  False if one was not to be had in time, or is of a relation that has
 * been dropped: then none is held.  Name the
 * tables that people read last: who waits for another lock must not block
 * them.
 */
extern bool kappa_swap_lock(List *relids, int lock_timeout_ms);

/*
 * A process whose lock on one of the relations is in the way of ACCESS
 * EXCLUSIVE now; 0 if none is, or if it is a prepared transaction.
 */
extern int kappa_swap_get_blocker(List *relids);

/*
 * In what two tables differ so that their storage cannot be exchanged ("columns",
 * "access method", ...), or NULL.  Columns that the shadow has lost, or has
 * beyond those of the target, are no difference: kappa_columns_follow() drops
 * and adds them first.  The caller has locked both.
 */
extern const char *kappa_swap_get_difference(Oid target, Oid shadow);

/*
 * Exchange the files of two tables with the same physical layout, together
 * with those of their indexes and with their toast tables.  Everything else
 * (OIDs, names, grants, dependents, statistics) stays where it is.  False, with
 * nothing done, if the tables' indexes differ.
 *
 * Runs in the caller's transaction and can be rolled back with it.  The caller
 * has locked both tables with kappa_swap_lock().  Not safe for snapshots that
 * are older than the shadow's rows: see kappa_swap_snapshots_gone().
 *
 * Throws 55000 where the layouts differ, 55006 if this session has one of the
 * tables open.
 */
extern bool kappa_swap_storage(Oid target, Oid shadow);

/* Snapshots that were there at one moment, and may be there still. */
typedef struct KappaSnapshots
{
	TransactionId limit; /* a transaction that saw this one as finished is no concern */
	int nvxids;
	VirtualTransactionId *vxids;
} KappaSnapshots;

/*
 * The snapshots of this database that other processes hold now, and so may
 * not see what has been committed just before.  palloc'd in
 * CurrentMemoryContext.
 */
extern KappaSnapshots *kappa_swap_get_snapshots(void);

/*
 * True when all of them are gone, without waiting.  Otherwise *pid is the
 * process that holds one of them.  Holders of the lock "ignored" are not
 * waited for.
 */
extern bool kappa_swap_snapshots_gone(KappaSnapshots *snapshots,
									  const LOCKTAG *ignored, int *pid);

#endif /* KAPPA_SWAP_H */
