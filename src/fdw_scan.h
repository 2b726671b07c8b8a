/*-------------------------------------------------------------------------
 *
 * fdw_scan.h
 *	  Execution of scans of foreign tables
 *
 * IDENTIFICATION
 *	  src/fdw_scan.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_SCAN_H
#define KAPPA_FDW_SCAN_H

#include "access/parallel.h"
#include "nodes/execnodes.h"
#include "nodes/pathnodes.h"

/* What a scan reads; told by the alias of the range table entry (kappa.h). */
typedef enum KappaScanMode
{
	KAPPA_SCAN_LOG,     /* the log, up to its end when the scan begins */
	KAPPA_SCAN_BOUNDED, /* the log, between bounds that this process has bound */
	KAPPA_SCAN_STRETCH, /* the same; of a changelog also keys whose latest message is a tombstone */
	KAPPA_SCAN_LATER,   /* every message after these bounds, of a changelog, too */
	KAPPA_SCAN_BATCH,   /* the batch that this process has bound */
} KappaScanMode;

static inline bool
kappa_scan_is_bounded(KappaScanMode mode)
{
	return mode == KAPPA_SCAN_BOUNDED || mode == KAPPA_SCAN_STRETCH;
}

/*
 * What the planner hands to the executor, as ForeignScan.fdw_private and
 * fdw_exprs.  It is copied and sent to parallel workers, so in the plan it is
 * made of nodes; these two translate.
 */
typedef struct KappaScanPlan
{
	KappaScanMode mode;
	Oid userid;         /* whose credentials; InvalidOid for the current user */
	Bitmapset *columns; /* attribute numbers that are needed */
	bool need_ctid;
	List *restrictions; /* clauses that narrow what is read, see fdw_ranges.h */
	List *key_clauses;  /* of a changelog: "key = constant" */
} KappaScanPlan;

extern void kappa_scan_store_plan(const KappaScanPlan *plan,
								  List **fdw_private, List **fdw_exprs);
extern void kappa_scan_load_plan(const ForeignScan *scan, KappaScanPlan *plan);

/*
 * Bind offset bounds to a foreign table, for scans under KAPPA_BOUNDED_ALIAS
 * or KAPPA_STRETCH_ALIAS in this process: of partition p they read the offsets start[p] up to, not
 * including, end[p], and of partitions from n on nothing.  The arrays are
 * copied.  A later binding of the same table replaces this one; all are
 * forgotten by kappa_fdw_unbind_bounds() and at the end of the transaction.
 *
 * The scan throws 55000 if nothing is bound, or if the log no longer has what
 * the bounds ask for.
 */
extern void kappa_fdw_bind_bounds(Oid relid, int n, const int64 *start,
								  const int64 *end);
extern void kappa_fdw_unbind_bounds(void);

/*
 * Let kappa.message_offset() give offsets in the log for scans of a bound
 * table, and not just their order.  All scans must run in this process.
 */
extern void kappa_fdw_number_messages(Oid relid);

/* Pass over some of the offsets between the bounds of a table: start up to, not including, end. */
extern void kappa_fdw_bind_gap(Oid relid, int32 partition, int64 start, int64 end);

/* Offsets between the bounds that are bound to a table now; -1 if none are. */
extern double kappa_fdw_bound_rows(Oid relid);

/*
 * Offsets that had no message when the log was read since the bounds were
 * bound: between them, or after them.  Compaction makes such, and so do
 * transactions.
 */
extern int64 kappa_fdw_count_holes(Oid relid, bool later);

/* Messages between the bounds that have been read since they were bound, and their bytes. */
extern void kappa_fdw_count_read(Oid relid, uint64 *messages, uint64 *bytes);

/* Callbacks of the FDW. */
extern void kappaBeginForeignScan(ForeignScanState *node, int eflags);
extern TupleTableSlot *kappaIterateForeignScan(ForeignScanState *node);
extern void kappaReScanForeignScan(ForeignScanState *node);
extern void kappaEndForeignScan(ForeignScanState *node);
extern void kappaShutdownForeignScan(ForeignScanState *node);
extern Size kappaEstimateDSMForeignScan(ForeignScanState *node,
										ParallelContext *pcxt);
extern void kappaInitializeDSMForeignScan(ForeignScanState *node,
										  ParallelContext *pcxt,
										  void *coordinate);
extern void kappaReInitializeDSMForeignScan(ForeignScanState *node,
											ParallelContext *pcxt,
											void *coordinate);
extern void kappaInitializeWorkerForeignScan(ForeignScanState *node,
											 shm_toc *toc, void *coordinate);

/* Messages and bytes that a scan has read, in all of its processes. */
extern void kappa_scan_get_counters(ForeignScanState *node, uint64 *messages,
									uint64 *bytes);

#endif /* KAPPA_FDW_SCAN_H */
