/*-------------------------------------------------------------------------
 *
 * view_flatten.c
 *	  Bring the topic of a query into its outermost FROM clause
 *
 * Deltas are built around the topic: it gets another alias, its place in the
 * log completes an order, its key identifies rows.  So it has to stand in FROM
 * of the outer query.  People rather write a subquery that names expressions,
 * WITH, or an SQL view over the topic that several queries share.  As long as
 * these only compute, join and filter, the query is the same with their parts
 * in the outer query, where the planner would bring them, too.
 *
 * The planner's own machinery wants a query that has been rewritten; this is
 * done before, because the result is deparsed.  Nothing needs to become NULL
 * by an outer join on the way: a topic on the nullable side is not supported
 * anyhow, and stays where it is.
 *
 * Two traps of deparsing decide how it is done.  A join's entry in the range
 * table must list exactly the columns of its sides, and come after them: so
 * all joins get new entries, without USING and without names, and the range
 * table gets a new order.  And a whole row would lose the names of its columns:
 * it becomes a whole row of the topic, which is refused with its position.
 *
 * IDENTIFICATION
 *	  src/view_flatten.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteDefine.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "fdw_options.h"
#include "kappa.h"
#include "view_flatten.h"
#include "view_query.h"

/* References to one CTE. */
typedef struct InlineContext
{
	const CommonTableExpr *cte;
	int levels_up; /* from what is looked at to the query with the WITH */
} InlineContext;

/* What a subquery's columns are replaced by. */
typedef struct PullUpContext
{
	Query *source;
	Index topic; /* in the outer query's range table */
} PullUpContext;

/* A range table in a new order. */
typedef struct Layout
{
	List *entries;
	Index *places; /* by old index: the new one */
	int levels_up;
} Layout;

static Query *flatten_level(Query *query, List **views);

/* ---- what holds the topic ---- */

static bool query_holds_topic(Query *query);

/* Kappa's own views, which say what other views of kappa are, are nobody's source. */
static bool
is_of_kappa(Oid relid)
{
	Oid namespace = get_rel_namespace(relid);

	return namespace == get_namespace_oid(KAPPA_SCHEMA, true) ||
		   namespace == get_namespace_oid(KAPPA_STATE_SCHEMA, true);
}

/* The query of an SQL view, a copy. */
static Query *
get_view_source(Oid relid, bool *barrier)
{
	Relation rel = table_open(relid, AccessShareLock);
	Query *query = copyObject(get_view_query(rel));

	*barrier = RelationIsSecurityView(rel);
	table_close(rel, NoLock);
	return query;
}

static bool
is_topic(const RangeTblEntry *rte)
{
	return rte->rtekind == RTE_RELATION && kappa_options_is_topic(rte->relid);
}

static bool
is_view(const RangeTblEntry *rte)
{
	return rte->rtekind == RTE_RELATION && get_rel_relkind(rte->relid) == RELKIND_VIEW;
}

bool
kappa_flatten_holds_topic(const RangeTblEntry *rte)
{
	Query *query = NULL;
	bool barrier;

	if (rte->rtekind == RTE_SUBQUERY)
		query = rte->subquery;
	else if (is_view(rte) && !is_of_kappa(rte->relid))
		query = get_view_source(rte->relid, &barrier);
	return query != NULL && query_holds_topic(query);
}

static bool
item_holds_topic(Node *item, List *rtable)
{
	RangeTblEntry *rte;

	if (IsA(item, JoinExpr))
		return item_holds_topic(((JoinExpr *) item)->larg, rtable) ||
			   item_holds_topic(((JoinExpr *) item)->rarg, rtable);
	rte = rt_fetch(((RangeTblRef *) item)->rtindex, rtable);
	return is_topic(rte) || kappa_flatten_holds_topic(rte);
}

/* A query of WITH counts, whether it is used or not: that is seen later. */
static bool
query_holds_topic(Query *query)
{
	ListCell *lc;

	check_stack_depth();
	foreach(lc, query->jointree->fromlist)
	{
		if (item_holds_topic(lfirst(lc), query->rtable))
			return true;
	}
	foreach(lc, query->cteList)
	{
		Node *cte = lfirst_node(CommonTableExpr, lc)->ctequery;

		if (IsA(cte, Query) && ((Query *) cte)->commandType == CMD_SELECT &&
			query_holds_topic((Query *) cte))
			return true;
	}
	return false;
}

const char *
kappa_flatten_get_obstacle(const Query *query)
{
	if (query->setOperations != NULL)
		return "UNION, INTERSECT or EXCEPT";
	if (query->hasAggs || query->groupClause != NIL || query->groupingSets != NIL ||
		query->havingQual != NULL)
		return "aggregates or GROUP BY";
	if (query->hasWindowFuncs || query->windowClause != NIL)
		return "window functions";
	if (query->distinctClause != NIL)
		return "DISTINCT";
	if (query->limitCount != NULL || query->limitOffset != NULL)
		return "LIMIT or OFFSET";
	if (query->sortClause != NIL)
		return "ORDER BY";
	if (query->hasTargetSRFs)
		return "set-returning functions in its select list";
	if (query->rowMarks != NIL)
		return "FOR UPDATE or FOR SHARE";
	if (query->cteList != NIL)
		return "WITH RECURSIVE";
	return NULL;
}

/* ---- WITH ---- */

/* Make a subquery of a reference to a CTE. */
static void
inline_entry(RangeTblEntry *rte, InlineContext *context)
{
	Query *query = copyObject(castNode(Query, context->cte->ctequery));

	if (context->levels_up > 0)
		IncrementVarSublevelsUp((Node *) query, context->levels_up, 1);
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = query;
	rte->ctename = NULL;
	rte->ctelevelsup = 0;
	rte->coltypes = NIL;
	rte->coltypmods = NIL;
	rte->colcollations = NIL;

	/* The columns' names are the CTE's, which may not be those of its query. */
	if (context->cte->aliascolnames != NIL)
		rte->alias = makeAlias(rte->eref->aliasname, copyObject(rte->eref->colnames));
}

static bool
inline_references(Node *node, InlineContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		context->levels_up++;
		(void) query_tree_walker((Query *) node, inline_references, context,
								 QTW_EXAMINE_RTES_AFTER);
		context->levels_up--;
		return false;
	}
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_CTE && rte->ctelevelsup == context->levels_up &&
			strcmp(rte->ctename, context->cte->ctename) == 0)
			inline_entry(rte, context);
		return false;
	}
	return expression_tree_walker(node, inline_references, context);
}

/*
 * Make subqueries of all references to WITH.  Where nothing is volatile and
 * nothing changes data, which the analysis sees to, it does not matter how
 * often such a query is run.  If one of them has to stay, all stay.
 */
static void
inline_with(Query *query)
{
	ListCell *lc;

	foreach(lc, query->cteList)
	{
		CommonTableExpr *cte = lfirst(lc);

		if (cte->cterecursive || !IsA(cte->ctequery, Query) ||
			((Query *) cte->ctequery)->commandType != CMD_SELECT)
			return;
	}

	/* One may refer to those before it. */
	foreach(lc, query->cteList)
	{
		InlineContext context = { lfirst(lc), -1 };

		(void) inline_references((Node *) query, &context);
	}
	query->cteList = NIL;
}

/* ---- references to joins ---- */

static bool
find_whole_join(Node *node, Layout *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;

		return var->varlevelsup == context->levels_up && var->varattno == 0 &&
			   rt_fetch(var->varno, context->entries)->rtekind == RTE_JOIN;
	}
	if (IsA(node, Query))
	{
		bool found;

		context->levels_up++;
		found = query_tree_walker((Query *) node, find_whole_join, context,
								  QTW_IGNORE_JOINALIASES);
		context->levels_up--;
		return found;
	}
	return expression_tree_walker(node, find_whole_join, context);
}

/* A whole row of a join would be resolved into columns without names. */
static bool
uses_whole_join(Query *query)
{
	Layout context = { query->rtable, NULL, 0 };

	return query_tree_walker(query, find_whole_join, &context, QTW_IGNORE_JOINALIASES);
}

/* ---- a new order of the range table ---- */

/*
 * The columns of one side of a join: names, what they are, and their numbers.
 * Columns that were dropped are not counted.
 */
static void
append_columns(Layout *layout, Index rti, RangeTblEntry *join, List **numbers)
{
	RangeTblEntry *rte = rt_fetch(rti, layout->entries);
	List *names;
	List *vars;
	ListCell *lc;

	kappa_expand_entry(rte, rti, false, &names, &vars);
	foreach(lc, vars)
		*numbers = lappend_int(*numbers, rte->rtekind == RTE_JOIN
											 ? foreach_current_index(lc) + 1
											 : lfirst_node(Var, lc)->varattno);
	join->eref->colnames = list_concat(join->eref->colnames, names);
	join->joinaliasvars = list_concat(join->joinaliasvars, vars);
}

static Index
add_entry(Layout *layout, RangeTblEntry *rte)
{
	layout->entries = lappend(layout->entries, rte);
	return list_length(layout->entries);
}

/* A table may have got columns since a view over it was made. */
static void
refresh_names(RangeTblEntry *rte)
{
	List *names;

	kappa_expand_entry(rte, 1, true, &names, NULL);
	rte->eref->colnames = names;
}

/* Give an item of FROM, with all below it, its place; returns its index. */
static Index
place_item(Layout *layout, List *rtable, Node *item)
{
	JoinExpr *join = (JoinExpr *) item;
	RangeTblEntry *rte;
	Index left;
	Index right;

	if (IsA(item, RangeTblRef))
	{
		int *rti = &((RangeTblRef *) item)->rtindex;

		rte = rt_fetch(*rti, rtable);
		if (rte->rtekind == RTE_RELATION)
			refresh_names(rte);
		layout->places[*rti] = add_entry(layout, rte);
		return *rti = layout->places[*rti];
	}
	left = place_item(layout, rtable, join->larg);
	right = place_item(layout, rtable, join->rarg);
	rte = makeNode(RangeTblEntry);
	rte->rtekind = RTE_JOIN;
	rte->jointype = join->jointype;
	rte->eref = makeAlias("unnamed_join", NIL);
	rte->inFromCl = true;
	append_columns(layout, left, rte, &rte->joinleftcols);
	append_columns(layout, right, rte, &rte->joinrightcols);
	join->alias = NULL;
	join->isNatural = false;
	join->usingClause = NIL;
	join->join_using_alias = NULL;
	return join->rtindex = add_entry(layout, rte);
}

static bool
renumber_variables(Node *node, Layout *layout)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;

		if (var->varlevelsup != layout->levels_up)
			return false;
		var->varno = layout->places[var->varno];
		var->varnosyn = var->varno;
		var->varattnosyn = var->varattno;
		kappa_forget_nulling_joins(var);
		return false;
	}
	if (IsA(node, Query))
	{
		layout->levels_up++;
		(void) query_tree_walker((Query *) node, renumber_variables, layout,
								 QTW_IGNORE_JOINALIASES);
		layout->levels_up--;
		return false;
	}
	return expression_tree_walker(node, renumber_variables, layout);
}

/* Keep what is in FROM, each entry after those that it consists of. */
static Query *
lay_out(Query *original)
{
	Query *query = copyObject(original); /* no node may be renumbered twice */
	Layout layout = { NIL };
	ListCell *lc;

	layout.places = palloc0((list_length(query->rtable) + 1) * sizeof(Index));
	foreach(lc, query->jointree->fromlist)
		(void) place_item(&layout, query->rtable, lfirst(lc));
	query->rtable = layout.entries;
	kappa_forget_unused_entries(query);
	(void) query_tree_walker(query, renumber_variables, &layout, QTW_IGNORE_JOINALIASES);
	return query;
}

/* ---- pulling up ---- */

/* Point at the reference where an expression from an SQL view has no position. */
static bool
set_location(Node *node, int *location)
{
	int *own = NULL;

	if (node == NULL || IsA(node, Query))
		return false;
	if (IsA(node, Var))
		own = &((Var *) node)->location;
	else if (IsA(node, Const))
		own = &((Const *) node)->location;
	else if (IsA(node, FuncExpr))
		own = &((FuncExpr *) node)->location;
	else if (IsA(node, SQLValueFunction))
		own = &((SQLValueFunction *) node)->location;
	else if (IsA(node, SubLink))
		own = &((SubLink *) node)->location;
	if (own != NULL && *own < 0)
		*own = *location;
	return expression_tree_walker(node, set_location, location);
}

static Node *
substitute(Var *var, replace_rte_variables_context *context)
{
	PullUpContext *pull_up = context->callback_arg;
	TargetEntry *tle;
	Node *expression;

	if (var->varattno == 0)
	{
		var = copyObject(var);
		var->varno = var->varnosyn = pull_up->topic;
		return (Node *) var;
	}
	tle = get_tle_by_resno(pull_up->source->targetList, var->varattno);
	if (tle == NULL)
		elog(ERROR, "column %d of a subquery not found", var->varattno);
	expression = copyObject((Node *) tle->expr);
	(void) set_location(expression, &var->location);
	if (var->varlevelsup > 0)
		IncrementVarSublevelsUp(expression, var->varlevelsup, 0);
	return expression;
}

/* One item that is the cross join of several. */
static Node *
join_items(List *items)
{
	Node *result = linitial(items);
	ListCell *lc;

	for_each_from(lc, items, 1)
	{
		JoinExpr *join = makeNode(JoinExpr);

		join->jointype = JOIN_INNER;
		join->larg = result;
		join->rarg = lfirst(lc);
		result = (Node *) join;
	}
	return result;
}

static void
replace_in_join(JoinExpr *join, Index rti, List *items)
{
	Node **sides[] = { &join->larg, &join->rarg };

	for (int i = 0; i < lengthof(sides); i++)
	{
		Node *side = *sides[i];

		if (IsA(side, JoinExpr))
			replace_in_join((JoinExpr *) side, rti, items);
		else if (((RangeTblRef *) side)->rtindex == rti)
			*sides[i] = join_items(items);
	}
}

/* Put the items of a subquery's FROM where the subquery is. */
static void
replace_in_from(FromExpr *from, Index rti, List *items)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, from->fromlist)
	{
		Node *item = lfirst(lc);

		if (IsA(item, RangeTblRef) && ((RangeTblRef *) item)->rtindex == rti)
			result = list_concat(result, items);
		else
			result = lappend(result, item);
		if (IsA(item, JoinExpr))
			replace_in_join((JoinExpr *) item, rti, items);
	}
	from->fromlist = result;
}

/* What a LATERAL subquery took from its neighbours its parts take themselves. */
static void
mark_lateral(List *rtable)
{
	ListCell *lc;

	foreach(lc, rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_SUBQUERY || rte->rtekind == RTE_FUNCTION ||
			rte->rtekind == RTE_TABLEFUNC || rte->rtekind == RTE_VALUES)
			rte->lateral = true;
	}
}

static Index
find_topic(Node *item, List *rtable)
{
	Index rti;

	if (IsA(item, JoinExpr))
	{
		rti = find_topic(((JoinExpr *) item)->larg, rtable);
		return rti != 0 ? rti : find_topic(((JoinExpr *) item)->rarg, rtable);
	}
	rti = ((RangeTblRef *) item)->rtindex;
	return is_topic(rt_fetch(rti, rtable)) ? rti : 0;
}

/* The place of a topic that stands in FROM of this query itself; 0 if none does. */
static Index
get_topic(Query *query)
{
	ListCell *lc;

	foreach(lc, query->jointree->fromlist)
	{
		Index rti = find_topic(lfirst(lc), query->rtable);

		if (rti != 0)
			return rti;
	}
	return 0;
}

/*
 * Put the parts of a subquery, which is used up, into the query around it.
 * Above it there are only inner joins and the preserved sides of outer ones:
 * so its conditions may be tested after all of them, in WHERE.
 */
static Query *
pull_up(Query *query, Index rti, Query *source)
{
	int offset = list_length(query->rtable);
	PullUpContext context = { source, get_topic(source) + offset };

	OffsetVarNodes((Node *) source, offset, 0);
	IncrementVarSublevelsUp((Node *) source, -1, 1);
	if (rt_fetch(rti, query->rtable)->lateral)
		mark_lateral(source->rtable);
	query = (Query *) replace_rte_variables((Node *) query, rti, 0, substitute, &context, NULL);

	replace_in_from(query->jointree, rti, source->jointree->fromlist);
	query->jointree->quals = make_and_qual(source->jointree->quals, query->jointree->quals);
	kappa_combine_range_tables(query, source);
	query->hasSubLinks = query->hasSubLinks || source->hasSubLinks;
	return query;
}

/* ---- the whole ---- */

/* Subqueries and SQL views with a topic that no outer join can fill with NULLs. */
static List *
collect_holders(Node *item, List *rtable)
{
	JoinExpr *join = (JoinExpr *) item;
	List *result = NIL;

	if (IsA(item, RangeTblRef))
	{
		Index rti = ((RangeTblRef *) item)->rtindex;

		return kappa_flatten_holds_topic(rt_fetch(rti, rtable)) ? list_make1_int(rti) : NIL;
	}
	if (join->jointype == JOIN_INNER || join->jointype == JOIN_LEFT)
		result = collect_holders(join->larg, rtable);
	if (join->jointype == JOIN_INNER || join->jointype == JOIN_RIGHT)
		result = list_concat(result, collect_holders(join->rarg, rtable));
	return result;
}

/* Give the topic the name that the text knows the SQL view by: positions of errors need it. */
static void
name_topic(Query *query, const char *name)
{
	RangeTblEntry *rte = rt_fetch(get_topic(query), query->rtable);

	if (rte->alias == NULL)
		rte->alias = makeAlias(name, NIL);
	rte->alias->aliasname = pstrdup(name);
	rte->eref->aliasname = pstrdup(name);
}

/*
 * The query of a subquery or an SQL view, flat, if it can be pulled up; NULL
 * if not.
 */
static Query *
make_source(const RangeTblEntry *rte, List **views)
{
	bool barrier = false;
	Query *query;

	if (rte->rtekind == RTE_SUBQUERY)
		query = copyObject(rte->subquery);
	else
	{
		/* Its tables are going to be read by who reads it. */
		query = get_view_source(rte->relid, &barrier);
		setRuleCheckAsUser((Node *) query, InvalidOid);
	}
	query = flatten_level(query, views);
	if (barrier || kappa_flatten_get_obstacle(query) != NULL || get_topic(query) == 0)
		return NULL;
	if (rte->rtekind == RTE_RELATION)
	{
		name_topic(query, rte->eref->aliasname);
		if (views != NULL)
			*views = list_append_unique_oid(*views, rte->relid);
	}
	return query;
}

/* Flatten one query, which may be changed, from the inside out. */
static Query *
flatten_level(Query *query, List **views)
{
	List *holders = NIL;
	bool changed = false;
	ListCell *lc;

	check_stack_depth();
	inline_with(query);
	if (query->cteList != NIL)
		return query;
	foreach(lc, query->jointree->fromlist)
		holders = list_concat(holders, collect_holders(lfirst(lc), query->rtable));
	if (holders == NIL || uses_whole_join(query))
		return query;

	foreach(lc, holders)
	{
		Query *source = make_source(rt_fetch(lfirst_int(lc), query->rtable), views);

		if (source == NULL)
			continue;
		if (!changed)
			query = kappa_query_resolve_aliases(query);
		changed = true;
		query = pull_up(query, lfirst_int(lc), source);
	}
	return changed ? lay_out(query) : query;
}

Query *
kappa_flatten_query(Query *query, List **views)
{
	if (query->commandType != CMD_SELECT || query->utilityStmt != NULL)
		return query;
	return flatten_level(copyObject(query), views);
}
