/*-------------------------------------------------------------------------
 *
 * view_delta.h
 *	  A definition's tree, changed to read something else than the log
 *
 * All functions work on a copy of the definition and return it; the result is
 * made to be deparsed.
 *
 * IDENTIFICATION
 *	  src/view_delta.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_DELTA_H
#define KAPPA_VIEW_DELTA_H

#include "view_analyze.h"

/* Columns that deltas and companions have beside the view's. */
#define KAPPA_COLUMN_KEEP "kappa keep"           /* over a changelog: the key has a row after this */
#define KAPPA_COLUMN_STORED "kappa stored"       /* the key's row in the companion */
#define KAPPA_COLUMN_SHOWN "kappa shown"         /* and in the view's table */
#define KAPPA_COLUMN_TIMESTAMP "kappa timestamp" /* of the message, in milliseconds since 1970 */
#define KAPPA_COLUMN_PARTITION "kappa partition" /* where the message is in the log */
#define KAPPA_COLUMN_OFFSET "kappa offset"
#define KAPPA_COLUMN_ORDER "kappa order %d" /* sort keys of DISTINCT ON, from 1 */
#define KAPPA_COLUMN_ROWS "kappa rows"      /* of a group */
#define KAPPA_COLUMN_STATE "kappa state %d" /* of aggregates, from 1 */
#define KAPPA_COLUMN_OLD "kappa old %d"     /* the states that were there, from 1 */

/*
 * Names inside a merge that a query of the user's is in reach of: what comes
 * from the batch, the same with what the companion has, and of that the groups
 * that HAVING does not show.
 */
#define KAPPA_DELTA "kappa delta"
#define KAPPA_FOUND "kappa found"
#define KAPPA_MERGED "kappa merged"
#define KAPPA_HIDDEN "kappa hidden"

/*
 * The query over one batch.  Has the outputs of the definition, and then: of a
 * LATEST node that needs a companion the order columns that are no outputs,
 * partition and offset; over a changelog KAPPA_COLUMN_KEEP and, if it needs a
 * companion, timestamp, partition and offset.  Of an aggregate
 * that needs a companion it has the key columns and the states instead.
 */
extern Query *kappa_delta_over_batch(Query *definition, const KappaShape *shape);

/*
 * Likewise over a stretch of the log, which is scanned or in memory as a batch;
 * over a changelog always with partition and offset.
 */
extern Query *kappa_delta_over_stretch(Query *definition, const KappaShape *shape,
									   bool in_memory);

/* The query over the bounded log, with the outputs of the definition and ties completed. */
extern Query *kappa_delta_over_log(Query *definition, const KappaShape *shape);

/*
 * The rows below the query, one for each message and more where it multiplies
 * them, over the bounded log: part, place (after the scan's start), and message,
 * the row of the topic as json.  conditions, on expressions of the definition,
 * are ANDed to WHERE.
 */
extern Query *kappa_delta_over_messages(Query *definition, const KappaShape *shape,
										List *conditions);

/* The query over no messages, which reads no topic. */
extern Query *kappa_delta_over_nothing(Query *definition, const KappaShape *shape);

/* Keep words such as "now" out of texts that become dates: a copy. */
extern Query *kappa_delta_guard_datetimes(Query *query);

/* The name of an order column: the output's, or KAPPA_COLUMN_ORDER. */
extern char *kappa_delta_order_name(const KappaShape *shape, const KappaOrder *order);

#endif /* KAPPA_VIEW_DELTA_H */
