/*-------------------------------------------------------------------------
 *
 * view_flatten.h
 *	  Bring the topic of a query into its outermost FROM clause
 *
 * IDENTIFICATION
 *	  src/view_flatten.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_FLATTEN_H
#define KAPPA_VIEW_FLATTEN_H

#include "nodes/parsenodes.h"

/*
 * A query that returns the same rows, in which subqueries and SQL views that
 * hold the topic are pulled up into the outer query, and WITH is gone, as far
 * as they are simple enough.  What is not is left as it stands: it is for
 * kappa_analyze_query() to refuse it.
 *
 * query is a parse-analysed, not rewritten SELECT, or a view's rule tree; it
 * is not changed.  If views is not NULL the OIDs of SQL views that were pulled
 * up are added to it.  Locks those until the end of the transaction.
 *
 * The result reads everything with the rights of the current user.  It can be
 * analysed and deparsed, not rewritten and planned.
 */
extern Query *kappa_flatten_query(Query *query, List **views);

/* What keeps a subquery with a topic from being pulled up; NULL if nothing. */
extern const char *kappa_flatten_get_obstacle(const Query *query);

/* Does this entry of FROM hold a topic, in FROM of a subquery or an SQL view? */
extern bool kappa_flatten_holds_topic(const RangeTblEntry *rte);

#endif /* KAPPA_VIEW_FLATTEN_H */
