/*-------------------------------------------------------------------------
 *
 * fdw_ranges.h
 *	  From conditions on partition, offset and timestamp to ranges of the log
 *
 * IDENTIFICATION
 *	  src/fdw_ranges.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_RANGES_H
#define KAPPA_FDW_RANGES_H

#include "fdw_options.h"
#include "nodes/execnodes.h"
#include "nodes/pathnodes.h"

/* Messages of one partition with start <= offset < end. */
typedef struct KappaRange
{
	int32 partition;
	int64 start;
	int64 end;
	int64 base; /* ctid counts from here */
} KappaRange;

/* The log as it was when a scan began: offsets of partitions 0 .. n-1. */
typedef struct KappaLog
{
	int32 npartitions;
	int64 *begin;
	int64 *end;
} KappaLog;

/*
 * A condition of the query that says which part of the log need not be read.
 * It stays a condition of the query: ranges may contain too much, never too
 * little.
 */
typedef struct KappaRestriction KappaRestriction;

/* What a restriction speaks about; a set of bits. */
#define KAPPA_RESTRICTS_PARTITION (1 << 0)
#define KAPPA_RESTRICTS_OFFSET (1 << 1)
#define KAPPA_RESTRICTS_TIMESTAMP (1 << 2)

/*
 * Make a restriction of a clause over the foreign table with range table
 * index varno, or return NULL if the clause restricts nothing.
 */
extern KappaRestriction *kappa_restriction_create(Expr *clause,
												  const KappaTable *table,
												  Index varno);

/* Which columns it speaks about. */
extern int kappa_restriction_columns(const KappaRestriction *restriction);

/* Prepare for evaluation in the executor, or in the planner's estimates. */
extern void kappa_restriction_init(KappaRestriction *restriction,
								   PlanState *parent);
extern void kappa_restriction_init_estimate(KappaRestriction *restriction,
											PlannerInfo *root);

/*
 * True if, in the planner, the ranges that result hold just the messages for
 * which the clause is true.
 */
extern bool kappa_restriction_is_exact(const KappaRestriction *restriction);

/*
 * Evaluate restrictions (a list, meaning AND) over a log.  Returns a palloc'd
 * array of ranges that are not empty, sorted by partition and start, and do
 * not overlap.  topic answers what offset a timestamp has; if it is NULL, and
 * econtext is NULL, this is an estimate and timestamps are ignored.
 */
extern int kappa_ranges_resolve(List *restrictions, ExprContext *econtext,
								KafkaTopic *topic, const KappaLog *log,
								KappaRange **ranges);

#endif /* KAPPA_FDW_RANGES_H */
