/*-------------------------------------------------------------------------
 *
 * fault.h
 *	  Points at which tests let something fail
 *
 * Compiled in by KAPPA_TEST=1 only; otherwise KAPPA_FAULT() is nothing.
 *
 * A fault is armed by a file in the data directory, which nobody but the
 * server's own user can make: kappa_fault/POINT, for whichever view comes
 * there, or kappa_fault/POINT.OID for one view.  POINT is one of the names
 * below.  The file holds
 *
 *	ACTION [N]
 *
 * ACTION is "error" (of the kind that does not pass), "disk-full" (one that
 * does), "exit" (the process is gone, and the server restarts as after a crash)
 * or "hang".  The process that comes there for the N-th time, the first one if
 * N is not given, puts ".hit" behind the file's name, and then does it: once,
 * also across restarts.  One that hangs goes on when that file is removed; it
 * can be cancelled.
 *
 * IDENTIFICATION
 *	  src/fault.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FAULT_H
#define KAPPA_FAULT_H

/* A worker with a batch: has taken it, and holds no transaction. */
#define KAPPA_FAULT_BATCH_FETCHED "batch-fetched"
/* In its transaction, for each view: before and after the merge, and with the offsets. */
#define KAPPA_FAULT_BATCH_APPLYING "batch-applying"
#define KAPPA_FAULT_BATCH_MERGED "batch-merged"
#define KAPPA_FAULT_BATCH_STORED "batch-stored"
/* Around its commit. */
#define KAPPA_FAULT_BATCH_COMMITTING "batch-committing"
#define KAPPA_FAULT_BATCH_COMMITTED "batch-committed"

/* A worker hands a version over to be replayed: before the commit. */
#define KAPPA_FAULT_REPLAY_PLANNED "replay-planned"
/* A process that replays: has locked ranges; has read and written a stretch of them. */
#define KAPPA_FAULT_REPLAY_CLAIMED "replay-claimed"
#define KAPPA_FAULT_REPLAY_STRETCHED "replay-stretched"
/* The last of them: before the partial results are merged; before that is committed. */
#define KAPPA_FAULT_REPLAY_MERGING "replay-merging"
#define KAPPA_FAULT_REPLAY_MERGED "replay-merged"

/* A rebuild: has begun, before the commit; has built indexes, likewise; joins the live version. */
#define KAPPA_FAULT_REBUILD_BEGUN "rebuild-begun"
#define KAPPA_FAULT_REBUILD_INDEXED "rebuild-indexed"
#define KAPPA_FAULT_REBUILD_JOINED "rebuild-joined"
/* Stands with the live version, and waits for old snapshots. */
#define KAPPA_FAULT_REBUILD_SNAPSHOTS "rebuild-snapshots"

/* A switch, in its transaction: before the locks; with all done. */
#define KAPPA_FAULT_SWITCH_LOCKING "switch-locking"
#define KAPPA_FAULT_SWITCH_SWAPPED "switch-swapped"
#define KAPPA_FAULT_SWITCH_COMMITTED "switch-committed"

/* Commands, with all done, before their commit. */
#define KAPPA_FAULT_ROLLBACK_BEGUN "rollback-begun"
#define KAPPA_FAULT_VERSION_DROPPED "version-dropped"
#define KAPPA_FAULT_VIEW_DROPPED "view-dropped"

#ifdef KAPPA_TEST
#define KAPPA_FAULT(point, view) kappa_fault_reach(KAPPA_FAULT_##point, view)
extern void kappa_fault_reach(const char *point, Oid view);
#else
#define KAPPA_FAULT(point, view) ((void) 0)
#endif

#endif /* KAPPA_FAULT_H */
