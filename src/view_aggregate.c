/*-------------------------------------------------------------------------
 *
 * view_aggregate.c
 *	  What is kept of a query with aggregates
 *
 * An aggregate can be kept if PostgreSQL can compute it in parallel: then two
 * partial states can be combined into one, whether they come from two workers
 * or from two batches of messages.
 *
 * Where every aggregate is a column of the view, and its value is all its
 * state, nothing else is kept.  Otherwise the companion keeps the states of
 * all aggregates, and the rows of the view are computed from there: also of
 * those groups that HAVING does not show.
 *
 * IDENTIFICATION
 *	  src/view_aggregate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "rewrite/rewriteManip.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/typcache.h"

#include "compat.h"
#include "view_delta.h"
#include "view_functions.h"
#include "view_query.h"
#include "view_refuse.h"
#include "view_states.h"

/* ---- which aggregates ---- */

typedef struct AggregateSearch
{
	List *found;      /* of Aggref, as they stand in the outer query */
	int sublevels_up; /* of the query around the expression, to the outer one */
} AggregateSearch;

static bool
find_aggregates(Node *node, AggregateSearch *search)
{
	if (node == NULL)
		return false;
	if (IsA(node, Aggref) && ((Aggref *) node)->agglevelsup == search->sublevels_up)
	{
		Node *aggref = copyObject(node);

		IncrementVarSublevelsUp(aggref, -search->sublevels_up, search->sublevels_up);
		search->found = list_append_unique(search->found, aggref);
		return false;
	}
	if (IsA(node, Query))
	{
		search->sublevels_up++;
		(void) query_tree_walker((Query *) node, find_aggregates, search, 0);
		search->sublevels_up--;
		return false;
	}
	return expression_tree_walker(node, find_aggregates, search);
}

static List *
list_aggregates(Node *node)
{
	AggregateSearch search = { NIL, 0 };

	(void) find_aggregates(node, &search);
	return search.found;
}

static void
check_aggregate(KappaQuery *kq, Aggref *aggref)
{
	const char *name = get_func_name(aggref->aggfnoid);

	if (aggref->aggdistinct != NIL)
		kappa_refuse(kq->pstate, aggref->location,
					 psprintf("%s(DISTINCT ...) is not supported in a view of kappa", name),
					 "Keep the distinct values in a view with GROUP BY, and aggregate them in an SQL view over it.");
	if (AGGKIND_IS_ORDERED_SET(aggref->aggkind))
		kappa_refuse(kq->pstate, aggref->location,
					 psprintf("ordered-set aggregate %s() is not supported in a view of kappa", name),
					 "Keep the values in a view, and aggregate them in the queries that read it.");
	if (aggref->aggorder != NIL)
		kappa_refuse(kq->pstate, aggref->location,
					 psprintf("ORDER BY in aggregate %s() is not supported in a view of kappa", name),
					 "Keep the values in a view, and aggregate them in the queries that read it.");
}

/* ---- states ---- */

static bool
is_float(Oid type)
{
	Oid base = getBaseType(type);

	return base == FLOAT4OID || base == FLOAT8OID;
}

/*
 * Does the order of messages show in the result?  It does where floating-point
 * numbers are added, and nobody knows with a user's aggregate.
 */
static void
note_order(KappaShape *shape, const KappaState *state)
{
	ListCell *lc;
	bool floats = is_float(state->type);

	if (state->aggref->aggfnoid >= FirstGenbkiObjectId)
	{
		kappa_query_add_inexact(shape, psprintf("the result of aggregate %s may depend on the order of its input",
												format_procedure(state->aggref->aggfnoid)));
		return;
	}
	switch (state->combine_fn)
	{
		case F_FLOAT4LARGER:
		case F_FLOAT4SMALLER:
		case F_FLOAT8LARGER:
		case F_FLOAT8SMALLER:
			return;
	}
	if (state->kind != KAPPA_STATE_NONE)
		foreach(lc, state->aggref->aggargtypes)
			floats = floats || is_float(lfirst_oid(lc));
	if (floats)
		kappa_query_add_inexact(shape, "sums of floating-point numbers depend on their order");
}

static KappaState *
make_state(KappaQuery *kq, KappaShape *shape, Aggref *aggref)
{
	KappaState *state = palloc0(sizeof(KappaState));

	state->aggref = aggref;
	state->combine_fn = kappa_function_combine(aggref->aggfnoid, &state->combine_strict);
	if (OidIsValid(state->combine_fn))
	{
		state->type = aggref->aggtype;
		state->collation = aggref->aggcollid;
	}
	else
	{
		state->kind = kappa_aggregate_state_kind(aggref, &state->type);
		if (state->kind == KAPPA_STATE_NONE || get_typtype(state->type) == TYPTYPE_PSEUDO)
			kappa_refuse(kq->pstate, aggref->location,
						 psprintf("aggregate %s cannot be kept: two of its results cannot be combined",
								  format_procedure(aggref->aggfnoid)),
						 "Keep the values in a view, and aggregate them in the queries that read it.");
		if (type_is_collatable(state->type))
			state->collation = aggref->inputcollid;
	}
	note_order(shape, state);
	return state;
}

/* An aggregate whose value is all that has to be kept. */
static bool
is_own_state(Node *node)
{
	bool strict;

	return IsA(node, Aggref) &&
		   OidIsValid(kappa_function_combine(((Aggref *) node)->aggfnoid, &strict));
}

/* Is every aggregate a column that is its own state, and every group shown? */
static bool
needs_no_companion(const Query *query)
{
	ListCell *lc;

	if (query->havingQual != NULL)
		return false;
	foreach(lc, query->targetList)
	{
		Node *expression = (Node *) ((TargetEntry *) lfirst(lc))->expr;

		if (list_aggregates(expression) != NIL && !is_own_state(expression))
			return false;
	}
	return true;
}

/* count(*) */
static Aggref *
make_row_count(void)
{
	Aggref *aggref = makeNode(Aggref);

	aggref->aggfnoid = F_COUNT_;
	aggref->aggtype = INT8OID;
	aggref->aggstar = true;
	aggref->aggkind = AGGKIND_NORMAL;
	aggref->aggsplit = AGGSPLIT_SIMPLE;
	aggref->aggno = -1;
	aggref->aggtransno = -1;
	aggref->location = -1;
	return aggref;
}

/* The aggregates, each once, and averages as a sum and a count. */
static List *
split_averages(List *aggrefs)
{
	List *split = NIL;
	ListCell *lc;

	foreach(lc, aggrefs)
	{
		Aggref *sum;
		Aggref *count;

		if (kappa_states_split(lfirst(lc), &sum, &count))
			split = list_append_unique(list_append_unique(split, sum), count);
		else
			split = list_append_unique(split, lfirst(lc));
	}
	return split;
}

/* What the companion keeps: the number of rows, and each aggregate that is called, once. */
static void
make_states(KappaQuery *kq, KappaShape *shape, List *aggrefs)
{
	KappaState *state = make_state(kq, shape, make_row_count());
	ListCell *lc;

	state->name = KAPPA_COLUMN_ROWS;
	shape->root->states = list_make1(state);
	foreach(lc, list_delete(split_averages(aggrefs), state->aggref))
	{
		KappaState *other = make_state(kq, shape, lfirst(lc));

		other->name = psprintf(KAPPA_COLUMN_STATE, list_length(shape->root->states));
		shape->root->states = lappend(shape->root->states, other);
	}
	shape->needs_companion = true;
}

/* ---- expressions over groups ---- */

typedef struct GroupCheck
{
	KappaQuery *kq;
	List *keys;       /* expressions of GROUP BY, as they stand in the outer query */
	int sublevels_up; /* of the query around the expression, to the outer one */
} GroupCheck;

/* Are equal values of a type the same value?  (Not so: 1.0 and 1.00, or -0 and 0.) */
static bool
is_equal_image(Oid type, Oid collation)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY);
	Oid proc = get_opfamily_proc(entry->btree_opf, entry->btree_opintype,
								 entry->btree_opintype, BTEQUALIMAGE_PROC);

	return OidIsValid(proc) &&
		   DatumGetBool(OidFunctionCall1Coll(proc, collation,
											 ObjectIdGetDatum(entry->btree_opintype)));
}

static bool
is_key(const GroupCheck *check, Node *node)
{
	ListCell *lc;

	foreach(lc, check->keys)
	{
		Node *key = lfirst(lc);

		if (check->sublevels_up > 0)
		{
			key = copyObject(key);
			IncrementVarSublevelsUp(key, check->sublevels_up, 0);
		}
		if (equal(key, node))
			return true;
	}
	return false;
}

/*
 * Does the expression show which of several equal values stands for a group,
 * or something that is no expression of GROUP BY at all?  Comparing a value
 * does not show it.
 */
static bool
shows_representative(Node *node, GroupCheck *check)
{
	bool found;
	ListCell *lc;

	if (node == NULL)
		return false;
	if (IsA(node, GroupingFunc) ||
		(IsA(node, Aggref) && ((Aggref *) node)->agglevelsup == check->sublevels_up))
		return false;
	if (is_key(check, node))
		return !is_equal_image(exprType(node), exprCollation(node));
	if (IsA(node, Var))
		return ((Var *) node)->varlevelsup == check->sublevels_up;
	if (IsA(node, OpExpr) && get_op_index_interpretation(((OpExpr *) node)->opno) != NIL)
	{
		foreach(lc, ((OpExpr *) node)->args)
		{
			if (!is_key(check, lfirst(lc)) && shows_representative(lfirst(lc), check))
				return true;
		}
		return false;
	}
	if (!IsA(node, Query))
		return expression_tree_walker(node, shows_representative, check);
	check->sublevels_up++;
	found = query_tree_walker((Query *) node, shows_representative, check, 0);
	check->sublevels_up--;
	return found;
}

static void
check_group_expression(GroupCheck *check, Node *expression, const char *what)
{
	if (shows_representative(expression, check))
		kappa_refuse(check->kq->pstate, exprLocation(expression),
					 psprintf("%s depends on more than the columns of GROUP BY and aggregates", what),
					 "Add its expression to GROUP BY.");
}

static void
set_output(GroupCheck *check, KappaShape *shape, KappaOutput *output, Node *expression)
{
	if (output->role == KAPPA_OUTPUT_KEY)
		return;
	check_group_expression(check, expression, psprintf("column \"%s\"", output->name));
	if (!shape->needs_companion && IsA(expression, Aggref))
	{
		output->role = KAPPA_OUTPUT_AGGREGATE;
		output->state = make_state(check->kq, shape, (Aggref *) expression);
		output->state->name = output->name;
	}
	else if (!contain_vars_of_level(expression, 0) && !checkExprHasSubLink(expression) &&
			 list_aggregates(expression) == NIL)
		output->role = KAPPA_OUTPUT_CONSTANT;
}

void
kappa_query_make_aggregate(KappaQuery *kq, KappaShape *shape)
{
	KappaNode *node = palloc0(sizeof(KappaNode));
	Query *query = kq->query;
	GroupCheck check = { kq };
	List *aggrefs;
	ListCell *lc;

	node->kind = KAPPA_NODE_AGGREGATE;
	node->child = shape->scan;
	shape->root = node;
	shape->kind = "aggregate";
	if (shape->scan->changelog)
		kappa_refuse(kq->pstate, exprLocation((Node *) query->targetList),
					 psprintf("aggregates over a changelog (\"%s\") are not supported in a view of kappa yet",
							  get_rel_name(shape->scan->source)),
					 "A row that changes would have to be taken out of its group.  Keep the rows in a view, and aggregate them in an SQL view over it.");
	kappa_query_set_key(kq, shape, query->groupClause, "GROUP BY");
	check.keys = get_sortgrouplist_exprs(query->groupClause, query->targetList);

	aggrefs = list_concat(list_aggregates((Node *) query->targetList),
						  list_difference(list_aggregates(query->havingQual),
										  list_aggregates((Node *) query->targetList)));
	foreach(lc, aggrefs)
		check_aggregate(kq, lfirst(lc));
	if (!needs_no_companion(query))
		make_states(kq, shape, aggrefs);
	check_group_expression(&check, query->havingQual, "HAVING");
	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst(lc);

		if (!tle->resjunk)
			set_output(&check, shape, kappa_query_get_output(shape, tle->resno),
					   (Node *) tle->expr);
	}
}
