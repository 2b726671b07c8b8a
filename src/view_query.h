/*-------------------------------------------------------------------------
 *
 * view_query.h
 *	  The parts of analysing a query: its FROM clause and its expressions
 *
 * IDENTIFICATION
 *	  src/view_query.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VIEW_QUERY_H
#define KAPPA_VIEW_QUERY_H

#include "fdw_options.h"
#include "parser/parse_node.h"
#include "view_analyze.h"

/*
 * A query under analysis.  The tree is a copy in which no Var refers to a join
 * any more, so that what stands in an expression is what is read.
 */
typedef struct KappaQuery
{
	ParseState *pstate; /* knows the text, for positions */
	Query *query;
	KappaNode *scan;
	KappaTable *table;   /* options of scan->source */
	bool calls_lookups;  /* calls stable functions, which may read tables */
	int hidden_depth;    /* SQL views and domains around what is being checked: not in the text */
	int hidden_location; /* where the text names the outermost of them */
} KappaQuery;

/*
 * A copy in which no Var refers to a join, but to what the join's column stands
 * for; the joins have no names any more, which would hide the names inside.
 */
extern Query *kappa_query_resolve_aliases(Query *query);

/* Find the topic in FROM, and check what it is joined with; fills scan and table. */
extern void kappa_query_check_from(KappaQuery *kq);

/* Check a relation that is not the topic, at a position in the text. */
extern void kappa_query_check_lookup(KappaQuery *kq, const RangeTblEntry *rte, int location);

/* Check all expressions, down to subqueries; completes scan's columns and lookups. */
extern void kappa_query_check_expressions(KappaQuery *kq);

/* The same for the query of an SQL view that is looked up. */
extern void kappa_query_check_view(KappaQuery *kq, Query *view_query);

/* True if one message can give several rows before grouping. */
extern bool kappa_query_multiplies(const Query *query);

/* Make the shape of a query with aggregates or GROUP BY. */
extern void kappa_query_make_aggregate(KappaQuery *kq, KappaShape *shape);

/* Mark the output columns of GROUP BY or DISTINCT ON as the key. */
extern void kappa_query_set_key(KappaQuery *kq, KappaShape *shape, List *clauses,
								const char *clause_name);

/* The output column of a target entry that is none of the junk. */
extern KappaOutput *kappa_query_get_output(const KappaShape *shape, AttrNumber resno);

/* Say why the equality of a view with its query is not exact; again is no harm. */
extern void kappa_query_add_inexact(KappaShape *shape, const char *reason);

#endif /* KAPPA_VIEW_QUERY_H */
