/*-------------------------------------------------------------------------
 *
 * view_analyze.c
 *	  Is this query one that kappa can keep equal, and what is its shape?
 *
 * What passes here is kept exactly; what cannot be is refused by name, at its
 * place, with a way to write it differently where there is one.  Nothing is
 * approximated.  view_from.c and view_expressions.c look at what is read and
 * computed, this file at the clauses of the outer query and at its columns.
 *
 * IDENTIFICATION
 *	  src/view_analyze.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "view_functions.h"
#include "view_query.h"
#include "view_refuse.h"

/* Output names that begin so are for the columns that kappa adds. */
#define RESERVED_PREFIX "kappa "

/* ---- clauses of the outer query ---- */

static const char *
get_set_operation_name(SetOperation op)
{
	if (op == SETOP_UNION)
		return "UNION";
	return op == SETOP_INTERSECT ? "INTERSECT" : "EXCEPT";
}

static void
refuse_set_operation(ParseState *pstate, Query *query)
{
	SetOperationStmt *set = castNode(SetOperationStmt, query->setOperations);
	const char *name = get_set_operation_name(set->op);
	int location = -1;

	/* The tree has no place for it: point at the SELECT after it. */
	if (IsA(set->rarg, RangeTblRef))
	{
		RangeTblEntry *rte = rt_fetch(((RangeTblRef *) set->rarg)->rtindex, query->rtable);

		location = exprLocation((Node *) rte->subquery->targetList);
	}
	kappa_refuse(pstate, location,
				 psprintf("%s is not supported in a view of kappa", name),
				 "Make a view for each SELECT, and combine the views in an SQL view.");
}

static bool
find_set_returning(Node *node, Node **found)
{
	if (node == NULL || IsA(node, Query))
		return false;
	if ((IsA(node, FuncExpr) && ((FuncExpr *) node)->funcretset) ||
		(IsA(node, OpExpr) && ((OpExpr *) node)->opretset))
	{
		*found = node;
		return true;
	}
	return expression_tree_walker(node, find_set_returning, found);
}

static void
refuse_set_returning(ParseState *pstate, Query *query)
{
	Node *found = (Node *) query->targetList;

	(void) find_set_returning((Node *) query->targetList, &found);
	kappa_refuse(pstate, exprLocation(found),
				 "set-returning functions in the select list are not supported in a view of kappa",
				 "Call the function in FROM: FROM topic, LATERAL function(...) AS item.");
}

static bool
find_window_function(Node *node, Node **found)
{
	if (node == NULL || IsA(node, Query))
		return false;
	if (IsA(node, WindowFunc))
	{
		*found = node;
		return true;
	}
	return expression_tree_walker(node, find_window_function, found);
}

static void
refuse_window_function(ParseState *pstate, Query *query)
{
	Node *found = (Node *) query->targetList;

	(void) find_window_function((Node *) query->targetList, &found);
	kappa_refuse(pstate, exprLocation(found),
				 "window functions are not supported in a view of kappa",
				 "Keep the rows in a view, and compute window functions in an SQL view over it.");
}

static int
locate_sort(Query *query)
{
	TargetEntry *tle = get_sortgroupclause_tle(linitial(query->sortClause), query->targetList);

	return exprLocation((Node *) tle->expr);
}

/* The rest of WITH is in FROM by now (view_flatten.c). */
static void
check_with(ParseState *pstate, Query *query)
{
	ListCell *lc;

	foreach(lc, query->cteList)
	{
		CommonTableExpr *cte = lfirst(lc);

		if (!IsA(cte->ctequery, Query) ||
			castNode(Query, cte->ctequery)->commandType != CMD_SELECT)
			kappa_refuse(pstate, cte->location,
						 "a view of kappa cannot change data in WITH", NULL);
		if (cte->cterecursive)
			kappa_refuse(pstate, cte->location,
						 "WITH RECURSIVE is not supported in a view of kappa",
						 "If it reads no topic, put it into a subquery in FROM, together with its WITH, or into an SQL view.");
	}
}

/* What follows the rows: order and number. */
static void
check_tail(ParseState *pstate, Query *query)
{
	Node *limit = query->limitCount != NULL ? query->limitCount : query->limitOffset;

	if (limit != NULL)
		kappa_refuse(pstate, exprLocation(limit),
					 "LIMIT and OFFSET are not supported in a view of kappa",
					 "Select the first rows in the queries that read the view.");
	if (query->rowMarks != NIL)
		kappa_refuse(pstate, exprLocation((Node *) query->targetList),
					 "FOR UPDATE and FOR SHARE are not supported in a view of kappa", NULL);
	if (query->sortClause != NIL && !query->hasDistinctOn && query->distinctClause == NIL)
		kappa_refuse(pstate, locate_sort(query),
					 "ORDER BY is not supported in a view of kappa, except with DISTINCT ON",
					 "A table has no order: sort in the queries that read the view, with an index on the view if need be.");
}

static void
check_distinct(ParseState *pstate, Query *query)
{
	bool grouped = query->groupClause != NIL || query->hasAggs;

	if (query->distinctClause != NIL && !query->hasDistinctOn)
		kappa_refuse(pstate, exprLocation((Node *) query->targetList),
					 "SELECT DISTINCT is not supported in a view of kappa",
					 grouped ? "Apply DISTINCT in the queries that read the view."
							 : "Use GROUP BY with the same columns.");
	if (query->hasDistinctOn && grouped)
		kappa_refuse(pstate, exprLocation((Node *) query->targetList),
					 "DISTINCT ON together with aggregates is not supported in a view of kappa",
					 "Aggregate in the view, and apply DISTINCT ON in the queries that read it.");
}

static void
check_clauses(ParseState *pstate, Query *query)
{
	if (query->commandType != CMD_SELECT || query->utilityStmt != NULL)
		kappa_refuse(pstate, -1, "a view of kappa is made from a SELECT", NULL);
	check_with(pstate, query);
	if (query->setOperations != NULL)
		refuse_set_operation(pstate, query);
	if (query->hasWindowFuncs || query->windowClause != NIL)
		refuse_window_function(pstate, query);
	if (query->hasTargetSRFs)
		refuse_set_returning(pstate, query);
	if (query->groupingSets != NIL)
		kappa_refuse(pstate, exprLocation((Node *) query->groupingSets),
					 "GROUPING SETS, ROLLUP and CUBE are not supported in a view of kappa",
					 "Make a view for each set of columns, or one with all of them, and add its rows up in the queries that read it.");
	check_distinct(pstate, query);
	check_tail(pstate, query);
}

/* ---- output columns ---- */

static void
check_output_type(ParseState *pstate, const KappaOutput *output, Node *expression)
{
	if (get_typtype(output->type) == TYPTYPE_PSEUDO)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("column \"%s\" has pseudo-type %s", output->name,
						format_type_be(output->type)),
				 errhint("Cast the expression to the type that the column shall have."),
				 kappa_refuse_position(pstate, exprLocation(expression))));
	if (type_is_collatable(output->type) && !OidIsValid(output->collation))
		ereport(ERROR,
				(errcode(ERRCODE_INDETERMINATE_COLLATION),
				 errmsg("no collation was derived for column \"%s\" with collatable type %s",
						output->name, format_type_be(output->type)),
				 errhint("Use the COLLATE clause to set the collation explicitly."),
				 kappa_refuse_position(pstate, exprLocation(expression))));
}

static void
check_output_name(ParseState *pstate, List *outputs, const char *name, Node *expression)
{
	ListCell *lc;

	if (strncmp(name, RESERVED_PREFIX, strlen(RESERVED_PREFIX)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("column name \"%s\" is reserved for kappa", name),
				 kappa_refuse_position(pstate, exprLocation(expression))));
	foreach(lc, outputs)
	{
		if (strcmp(((KappaOutput *) lfirst(lc))->name, name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column \"%s\" specified more than once", name),
					 errhint("Give each column of the view its own name with AS."),
					 kappa_refuse_position(pstate, exprLocation(expression))));
	}
}

static List *
make_outputs(KappaQuery *kq)
{
	List *outputs = NIL;
	ListCell *lc;

	foreach(lc, kq->query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		Node *expression = (Node *) tle->expr;
		KappaOutput *output;

		if (tle->resjunk)
			continue;
		output = palloc0(sizeof(KappaOutput));
		output->resno = tle->resno;
		output->name = pstrdup(tle->resname);
		output->type = exprType(expression);
		output->typmod = exprTypmod(expression);
		output->collation = exprCollation(expression);
		output->role = KAPPA_OUTPUT_VALUE;
		check_output_name(kq->pstate, outputs, output->name, expression);
		check_output_type(kq->pstate, output, expression);
		outputs = lappend(outputs, output);
	}
	if (outputs == NIL)
		kappa_refuse(kq->pstate, -1, "a view of kappa needs at least one column", NULL);
	return outputs;
}

KappaOutput *
kappa_query_get_output(const KappaShape *shape, AttrNumber resno)
{
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (output->resno == resno)
			return output;
	}
	elog(ERROR, "output column %d not found", resno);
	return NULL;
}

void
kappa_query_add_inexact(KappaShape *shape, const char *reason)
{
	if (shape->inexact == NULL)
		shape->inexact = pstrdup(reason);
	else if (strstr(shape->inexact, reason) == NULL)
		shape->inexact = psprintf("%s; %s", shape->inexact, reason);
}

/* ---- keys ---- */

/*
 * Rows are told apart by a unique index, so its idea of equality must be the
 * query's.
 */
static void
check_key_type(KappaQuery *kq, const KappaOutput *output, Oid equality, Node *expression)
{
	TypeCacheEntry *entry = lookup_type_cache(output->type,
											  TYPECACHE_EQ_OPR | TYPECACHE_BTREE_OPFAMILY);

	if (OidIsValid(entry->btree_opf) && OidIsValid(entry->eq_opr) &&
		(!OidIsValid(equality) ||
		 get_op_opfamily_strategy(equality, entry->btree_opf) == BTEqualStrategyNumber))
		return;
	kappa_refuse(kq->pstate, exprLocation(expression),
				 psprintf("column \"%s\" of type %s cannot identify the rows of a view",
						  output->name, format_type_be(output->type)),
				 "The type has no default operator class for btree indexes.  Cast the expression to another type.");
}

/* The first column with the expression of a column. */
static TargetEntry *
find_first_equal(List *targets, TargetEntry *tle)
{
	ListCell *lc;

	foreach(lc, targets)
	{
		TargetEntry *candidate = lfirst(lc);

		if (!candidate->resjunk && equal(candidate->expr, tle->expr))
			return candidate;
	}
	return tle;
}

/*
 * Where two columns have the same expression, the first one is the key: of a
 * query that is deparsed and parsed again, as a rebuild does it, the parser
 * takes that one, whatever the query said.
 */
void
kappa_query_set_key(KappaQuery *kq, KappaShape *shape, List *clauses, const char *clause_name)
{
	List *targets = kq->query->targetList;
	ListCell *lc;

	foreach(lc, clauses)
	{
		SortGroupClause *clause = lfirst(lc);
		TargetEntry *tle = find_first_equal(targets, get_sortgroupclause_tle(clause, targets));
		KappaOutput *output;

		if (tle->resjunk)
			kappa_refuse(kq->pstate, exprLocation((Node *) tle->expr),
						 psprintf("an expression of %s is not a column of the view", clause_name),
						 "Add the expression to the select list: it is what identifies a row.");
		output = kappa_query_get_output(shape, tle->resno);
		if (output->role == KAPPA_OUTPUT_KEY)
			continue;
		check_key_type(kq, output, clause->eqop, (Node *) tle->expr);
		output->role = KAPPA_OUTPUT_KEY;
		shape->key = lappend_int(shape->key, output->resno);
	}
}

/* ---- the first row per key ---- */

static bool
is_declared_not_null(Oid relid, AttrNumber attnum)
{
	HeapTuple tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(attnum));
	bool result = HeapTupleIsValid(tuple) && ((Form_pg_attribute) GETSTRUCT(tuple))->attnotnull;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

static bool
is_never_null(KappaQuery *kq, Node *node)
{
	Var *var = (Var *) node;
	ListCell *lc;

	if (IsA(node, Const))
		return !((Const *) node)->constisnull;
	if (IsA(node, RelabelType))
		return is_never_null(kq, (Node *) ((RelabelType *) node)->arg);
	if (IsA(node, CoalesceExpr))
	{
		foreach(lc, ((CoalesceExpr *) node)->args)
		{
			if (is_never_null(kq, lfirst(lc)))
				return true;
		}
		return false;
	}
	if (!IsA(node, Var) || var->varlevelsup != 0 || var->varno != kq->scan->source_rti)
		return false;
	switch (kq->table->columns[var->varattno - 1].source)
	{
		case KAPPA_SOURCE_PARTITION:
		case KAPPA_SOURCE_OFFSET:
		case KAPPA_SOURCE_TIMESTAMP:
		case KAPPA_SOURCE_TOPIC:
			return true;
		default:
			return is_declared_not_null(kq->scan->source, var->varattno);
	}
}

/*
 * "ORDER BY at DESC" puts NULL first: one message without the field would win
 * for ever.  It is what the query says, but rarely what is meant.
 */
static void
warn_of_nulls(KappaQuery *kq, SortGroupClause *clause, TargetEntry *tle)
{
	TypeCacheEntry *entry = lookup_type_cache(exprType((Node *) tle->expr),
											  TYPECACHE_BTREE_OPFAMILY);

	if (!clause->nulls_first || !OidIsValid(entry->btree_opf) ||
		get_op_opfamily_strategy(clause->sortop, entry->btree_opf) != BTGreaterStrategyNumber ||
		is_never_null(kq, (Node *) tle->expr))
		return;
	ereport(WARNING,
			(errmsg("rows in which the ORDER BY expression is null come first"),
			 errdetail("DESC sorts nulls before all values: a message without a value wins over every message with one."),
			 errhint("Write DESC NULLS LAST, unless this is meant."),
			 kappa_refuse_position(kq->pstate, exprLocation((Node *) tle->expr))));
}

static KappaOrder *
make_order(SortGroupClause *clause, TargetEntry *tle)
{
	KappaOrder *order = palloc0(sizeof(KappaOrder));
	Node *expression = (Node *) tle->expr;

	order->resno = tle->resno;
	order->output = tle->resjunk ? 0 : tle->resno;
	order->type = exprType(expression);
	order->typmod = exprTypmod(expression);
	order->collation = exprCollation(expression);
	order->sort_operator = clause->sortop;
	order->nulls_first = clause->nulls_first;
	return order;
}

/* The output column that carries a metadata column of the topic; 0 if none. */
static AttrNumber
find_metadata_output(KappaQuery *kq, KappaColumnSource source)
{
	ListCell *lc;

	foreach(lc, kq->query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		Var *var = (Var *) tle->expr;

		if (!tle->resjunk && IsA(var, Var) && var->varno == kq->scan->source_rti &&
			kq->table->columns[var->varattno - 1].source == source)
			return tle->resno;
	}
	return 0;
}

/* All rows of a key have the same value of it: there is nothing to sort by. */
static bool
is_key_expression(KappaQuery *kq, KappaShape *shape, TargetEntry *tle)
{
	TargetEntry *first = find_first_equal(kq->query->targetList, tle);

	return !first->resjunk &&
		   kappa_query_get_output(shape, first->resno)->role == KAPPA_OUTPUT_KEY;
}

static void
make_latest(KappaQuery *kq, KappaShape *shape, bool warn)
{
	Query *query = kq->query;
	KappaNode *node = palloc0(sizeof(KappaNode));
	bool hidden;
	ListCell *lc;

	node->kind = KAPPA_NODE_LATEST;
	node->child = shape->scan;
	shape->root = node;
	shape->kind = "latest";
	if (shape->scan->changelog)
		kappa_refuse(kq->pstate, exprLocation((Node *) query->targetList),
					 psprintf("DISTINCT ON over a changelog (\"%s\") is not supported in a view of kappa yet",
							  get_rel_name(shape->scan->source)),
					 "A changelog already has one row for each key.");
	kappa_query_set_key(kq, shape, query->distinctClause, "DISTINCT ON");

	node->partition_output = find_metadata_output(kq, KAPPA_SOURCE_PARTITION);
	node->offset_output = find_metadata_output(kq, KAPPA_SOURCE_OFFSET);
	hidden = node->partition_output == 0 || node->offset_output == 0;
	foreach(lc, query->sortClause)
	{
		SortGroupClause *clause = lfirst(lc);
		TargetEntry *tle = get_sortgroupclause_tle(clause, query->targetList);
		KappaOrder *order;

		if (is_key_expression(kq, shape, tle))
			continue;
		if (warn)
			warn_of_nulls(kq, clause, tle);
		order = make_order(clause, tle);
		hidden = hidden || order->output == 0;
		node->order = lappend(node->order, order);
	}

	/* Which of a key's rows came first does not show where there is nothing but the key. */
	shape->needs_companion = hidden && list_length(shape->key) < list_length(shape->outputs);
}

/* ---- changelogs ---- */

static void
set_changelog_key(KappaQuery *kq, KappaShape *shape, KappaColumn *column)
{
	KappaOutput *found = NULL;
	ListCell *lc;

	foreach(lc, kq->query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		Var *var = (Var *) tle->expr;

		if (found == NULL && !tle->resjunk && IsA(var, Var) &&
			var->varno == kq->scan->source_rti && var->varattno == column->attnum)
		{
			found = kappa_query_get_output(shape, tle->resno);
			check_key_type(kq, found, InvalidOid, (Node *) var);
		}
	}
	if (found == NULL)
		kappa_refuse(kq->pstate, exprLocation((Node *) kq->query->targetList),
					 psprintf("key column \"%s\" of changelog \"%s\" is not a column of the view",
							  get_attname(kq->scan->source, column->attnum, false),
							  kq->table->name),
					 "Add the column itself to the select list: it is what identifies a row.");
	found->role = KAPPA_OUTPUT_KEY;
	shape->key = lappend_int(shape->key, found->resno);
}

static void
make_changelog(KappaQuery *kq, KappaShape *shape)
{
	for (int i = 0; i < kq->table->ncolumns; i++)
	{
		KappaColumn *column = &kq->table->columns[i];

		if (!column->key)
			continue;
		set_changelog_key(kq, shape, column);
		kq->scan->columns = bms_add_member(kq->scan->columns, column->attnum);
	}
	shape->root = shape->scan;
	shape->kind = "latest";
	shape->key_not_null = true;

	/* What the latest message was has to be known, also of keys that have no row. */
	shape->needs_companion = kq->table->key_order == KAPPA_KEY_ORDER_TIMESTAMP;
}

/* ---- the whole ---- */

Query *
kappa_query_resolve_aliases(Query *original)
{
	Query *query = copyObject(original);
	ListCell *lc;

	query->targetList = (List *) kappa_resolve_aliases(query, (Node *) query->targetList);
	query->jointree = (FromExpr *) kappa_resolve_aliases(query, (Node *) query->jointree);
	query->havingQual = kappa_resolve_aliases(query, query->havingQual);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		rte->functions = (List *) kappa_resolve_aliases(query, (Node *) rte->functions);
		rte->subquery = (Query *) kappa_resolve_aliases(query, (Node *) rte->subquery);
		rte->tablefunc = (TableFunc *) kappa_resolve_aliases(query, (Node *) rte->tablefunc);
		rte->values_lists = (List *) kappa_resolve_aliases(query, (Node *) rte->values_lists);
		if (rte->rtekind == RTE_JOIN)
			rte->alias = NULL;
	}
	return query;
}

static void
check_topic_is_read(KappaQuery *kq)
{
	if (!OidIsValid(kq->scan->source))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the query reads no topic"),
				 errhint("A view of kappa reads a foreign table of a server with the foreign-data wrapper kappa.  For ordinary tables there are materialized views.")));
}

static KappaShape *
make_shape(KappaQuery *kq, bool warn)
{
	KappaShape *shape = palloc0(sizeof(KappaShape));

	shape->scan = kq->scan;
	shape->outputs = make_outputs(kq);
	if (kq->query->hasAggs || kq->query->groupClause != NIL || kq->query->havingQual != NULL)
		kappa_query_make_aggregate(kq, shape);
	else if (kq->query->hasDistinctOn)
		make_latest(kq, shape, warn);
	else if (kq->scan->changelog)
		make_changelog(kq, shape);
	else
	{
		shape->root = kq->scan;
		shape->kind = "append";
	}
	if (kq->scan->lookups != NIL)
		kappa_query_add_inexact(shape, "the query looks up tables, as they are when a message is applied");
	if (kq->calls_lookups)
		kappa_query_add_inexact(shape, "the query calls functions that are stable, not immutable");
	shape->looks_up = kq->scan->lookups != NIL || kq->calls_lookups;
	return shape;
}

KappaShape *
kappa_analyze_query(Query *query, const char *source_text, bool warn)
{
	KappaQuery kq = { make_parsestate(NULL) };

	kq.pstate->p_sourcetext = source_text;
	check_clauses(kq.pstate, query);
	kq.query = kappa_query_resolve_aliases(query);
	kq.scan = palloc0(sizeof(KappaNode));
	kq.scan->kind = KAPPA_NODE_SCAN;
	kappa_query_check_from(&kq);
	kappa_query_check_expressions(&kq);
	check_topic_is_read(&kq);
	return make_shape(&kq, warn);
}
