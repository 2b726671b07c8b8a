/*-------------------------------------------------------------------------
 *
 * view_delta.c
 *	  A definition's tree, changed to read something else than the log
 *
 * The mode of a scan is part of the statement: its alias (see kappa.h).  The
 * changes that are made besides belong to the meaning of a view, and are the
 * same in the live view, in a replay and in a check:
 *
 * - Words such as "now" are kept out of texts that become dates.
 * - The order of DISTINCT ON is completed by the place in the log, so that it
 *   never leaves the choice to the executor.
 * - Over a changelog a message without a value, and one whose row the query
 *   leaves out, must still come out of the delta, to delete the row that the
 *   key had before.
 *
 * IDENTIFICATION
 *	  src/view_delta.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parse_clause.h"
#include "parser/parse_func.h"
#include "parser/parse_oper.h"
#include "parser/parsetree.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "kappa.h"
#include "view_delta.h"
#include "view_functions.h"
#include "view_query.h"
#include "view_states.h"

/* ---- calls of kappa's own functions ---- */

static Expr *
make_call(const char *name, Oid result_type, List *args)
{
	Oid types[FUNC_MAX_ARGS];
	Oid funcid;
	ListCell *lc;

	foreach(lc, args)
		types[foreach_current_index(lc)] = exprType(lfirst(lc));
	funcid = LookupFuncName(list_make2(makeString(KAPPA_SCHEMA), makeString(pstrdup(name))),
							list_length(args), types, false);
	return (Expr *) makeFuncExpr(funcid, result_type, args,
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

/* A function of the message that a row of the topic came from. */
static Expr *
make_message_call(const KappaShape *shape, const char *name, Oid result_type)
{
	Index rti = shape->scan->source_rti;
	Var *source = makeVar(rti, TableOidAttributeNumber, OIDOID, -1, InvalidOid, 0);
	Var *message = makeVar(rti, SelfItemPointerAttributeNumber, TIDOID, -1, InvalidOid, 0);

	return make_call(name, result_type, list_make2(source, message));
}

/* ---- words of the clock ---- */

static Expr *
convert_by_text(Expr *expression, Oid type)
{
	CoerceViaIO *coerce = makeNode(CoerceViaIO);

	coerce->arg = expression;
	coerce->resulttype = type;
	coerce->resultcollid = get_typcollation(type);
	coerce->coerceformat = COERCE_EXPLICIT_CAST;
	coerce->location = -1;
	return (Expr *) coerce;
}

static Expr *
guard_text(Expr *text)
{
	if (exprType((Node *) text) != TEXTOID)
		text = convert_by_text(text, TEXTOID);
	return make_call("without_clock_words", TEXTOID, list_make1(text));
}

/*
 * Of an array, the whole text form is checked; casting the elements is not
 * something that SQL can be made to show.
 */
static Node *
guard_datetimes(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
		return (Node *) query_tree_mutator((Query *) node, guard_datetimes, context, 0);
	if (IsA(node, CoerceViaIO) && kappa_type_takes_clock_words(exprType(node)))
	{
		Node *copy = expression_tree_mutator(node, guard_datetimes, context);

		((CoerceViaIO *) copy)->arg = guard_text(((CoerceViaIO *) copy)->arg);
		return copy;
	}
	if (IsA(node, ArrayCoerceExpr) && IsA(((ArrayCoerceExpr *) node)->elemexpr, CoerceViaIO) &&
		kappa_type_takes_clock_words(exprType(node)))
	{
		ArrayCoerceExpr *coerce = copyObject((ArrayCoerceExpr *) node);
		Oid type = exprType((Node *) coerce->arg);

		coerce->arg = (Expr *) guard_datetimes((Node *) coerce->arg, context);
		coerce->arg = convert_by_text(guard_text(coerce->arg), type);
		return (Node *) coerce;
	}
	return expression_tree_mutator(node, guard_datetimes, context);
}

Query *
kappa_delta_guard_datetimes(Query *query)
{
	return query_tree_mutator(copyObject(query), guard_datetimes, NULL,
							  QTW_IGNORE_JOINALIASES | QTW_DONT_COPY_QUERY);
}

/* A copy whose topic is read under an alias. */
static Query *
copy_with_alias(Query *definition, const KappaShape *shape, const char *alias)
{
	Query *query = kappa_delta_guard_datetimes(definition);
	RangeTblEntry *rte = rt_fetch(shape->scan->source_rti, query->rtable);

	if (rte->alias == NULL)
		rte->alias = makeAlias(alias, NIL);
	rte->alias->aliasname = pstrdup(alias);
	rte->eref->aliasname = pstrdup(alias);
	return query;
}

/* ---- DISTINCT ON ---- */

static TargetEntry *
add_target(Query *query, Expr *expression)
{
	TargetEntry *tle = makeTargetEntry(expression, list_length(query->targetList) + 1, NULL, true);

	query->targetList = lappend(query->targetList, tle);
	return tle;
}

/* Sort by a target entry, ascending, after all that the query sorts by already. */
static void
add_sort(Query *query, TargetEntry *tle)
{
	SortGroupClause *clause = makeNode(SortGroupClause);

	clause->tleSortGroupRef = assignSortGroupRef(tle, query->targetList);
	get_sort_group_operators(exprType((Node *) tle->expr), true, true, false,
							 &clause->sortop, &clause->eqop, NULL, &clause->hashable);
	query->sortClause = lappend(query->sortClause, clause);
}

static bool
is_sortable(Oid type)
{
	return OidIsValid(lookup_type_cache(type, TYPECACHE_LT_OPR)->lt_opr);
}

/*
 * One message may give several rows with the same key and order, where the
 * query joins it with something.  Then the rest of the row decides.
 */
static void
sort_by_outputs(Query *query)
{
	ListCell *lc;
	List *outputs = list_copy(query->targetList);

	foreach(lc, outputs)
	{
		TargetEntry *tle = lfirst(lc);

		if (tle->resjunk || targetIsInSortList(tle, InvalidOid, query->sortClause))
			continue;
		if (!is_sortable(exprType((Node *) tle->expr)))
			tle = add_target(query, convert_by_text(copyObject(tle->expr), TEXTOID));
		add_sort(query, tle);
	}
}

static void
expose(TargetEntry *tle, const char *name)
{
	tle->resjunk = false;
	tle->resname = pstrdup(name);
}

/* The place of the message in the log. */
static void
add_place(Query *query, const KappaShape *shape, TargetEntry **partition, TargetEntry **offset)
{
	*partition = add_target(query, make_message_call(shape, "message_partition", INT4OID));
	*offset = add_target(query, make_message_call(shape, "message_offset", INT8OID));
}

static void
expose_place(TargetEntry *partition, TargetEntry *offset)
{
	expose(partition, KAPPA_COLUMN_PARTITION);
	expose(offset, KAPPA_COLUMN_OFFSET);
}

/*
 * Complete the order of DISTINCT ON by the place in the log.  expose_order:
 * make output columns of what the sort needs and the query does not show.
 */
static void
complete_order(Query *query, const KappaShape *shape, bool expose_order)
{
	TargetEntry *partition;
	TargetEntry *offset;
	ListCell *lc;

	foreach(lc, query->distinctClause)
	{
		SortGroupClause *clause = lfirst(lc);

		if (!targetIsInSortList(get_sortgroupclause_tle(clause, query->targetList),
								InvalidOid, query->sortClause))
			query->sortClause = lappend(query->sortClause, copyObject(clause));
	}
	add_place(query, shape, &partition, &offset);
	add_sort(query, partition);
	add_sort(query, offset);
	if (kappa_query_multiplies(query))
		sort_by_outputs(query);
	if (!expose_order)
		return;

	foreach(lc, shape->root->order)
	{
		KappaOrder *order = lfirst(lc);

		if (order->output == 0)
			expose(get_tle_by_resno(query->targetList, order->resno),
				   kappa_delta_order_name(shape, order));
	}
	expose_place(partition, offset);
}

char *
kappa_delta_order_name(const KappaShape *shape, const KappaOrder *order)
{
	ListCell *lc;

	foreach(lc, shape->root->order)
	{
		if (lfirst(lc) == order && order->output == 0)
			return psprintf(KAPPA_COLUMN_ORDER, foreach_current_index(lc) + 1);
	}
	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (output->resno == order->output)
			return output->name;
	}
	elog(ERROR, "order column not found");
	return NULL;
}

/* ---- changelogs ---- */

/*
 * Make left joins of inner joins, and return the conditions that tell a match.
 * view_from.c has seen to it that the topic is at the left of all of them.
 */
static List *
loosen_joins(Query *query, Node *item)
{
	JoinExpr *join = (JoinExpr *) item;
	List *conditions;
	NullTest *test;

	if (!IsA(item, JoinExpr))
		return NIL;
	conditions = loosen_joins(query, join->larg);
	if (join->jointype != JOIN_INNER)
		return conditions;
	join->jointype = JOIN_LEFT;
	rt_fetch(join->rtindex, query->rtable)->jointype = JOIN_LEFT;
	test = makeNode(NullTest);
	test->arg = (Expr *) makeVar(((RangeTblRef *) join->rarg)->rtindex,
								 TableOidAttributeNumber, OIDOID, -1, InvalidOid, 0);
	test->nulltesttype = IS_NOT_NULL;
	test->location = -1;
	return lappend(conditions, test);
}

static Expr *
make_case(Expr *condition, Expr *result, Expr *otherwise)
{
	CaseExpr *expr = makeNode(CaseExpr);
	CaseWhen *when = makeNode(CaseWhen);

	when->expr = condition;
	when->result = result;
	when->location = -1;
	expr->casetype = exprType((Node *) result);
	expr->casecollid = exprCollation((Node *) result);
	expr->args = list_make1(when);
	expr->defresult = otherwise;
	expr->location = -1;
	return (Expr *) expr;
}

/*
 * Does the key have a row after this message?  A message without a value has
 * none, whatever WHERE says of NULLs; and WHERE must not fail on a row that
 * the query would never show to it.
 */
static Expr *
make_keep(Query *query, const KappaShape *shape)
{
	List *conditions = list_make1(make_message_call(shape, "message_has_value", BOOLOID));
	Expr *present;
	BooleanTest *where;

	conditions = list_concat(conditions,
							 loosen_joins(query, linitial(query->jointree->fromlist)));
	present = make_ands_explicit(conditions);
	if (query->jointree->quals == NULL)
		return present;

	where = makeNode(BooleanTest);
	where->arg = (Expr *) query->jointree->quals;
	where->booltesttype = IS_TRUE;
	where->location = -1;
	query->jointree->quals = NULL;
	return make_case(present, (Expr *) where, (Expr *) makeBoolConst(false, false));
}

static bool
computes_something(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (!IsA(node, Var) && !IsA(node, Const) && !IsA(node, RelabelType))
		return true;
	return expression_tree_walker(node, computes_something, context);
}

/*
 * Without WHERE, the rows that it kept away reach the expressions of the
 * select list, which may fail on them: compute only what is kept.
 */
static void
guard_outputs(Query *query, Expr *keep)
{
	ListCell *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		Node *expression = (Node *) tle->expr;

		if (computes_something(expression, NULL))
			tle->expr = make_case(copyObject(keep), tle->expr,
								  (Expr *) makeNullConst(exprType(expression),
														 exprTypmod(expression),
														 exprCollation(expression)));
	}
}

static void
keep_deletions(Query *query, const KappaShape *shape)
{
	Expr *keep = make_keep(query, shape);
	TargetEntry *partition;
	TargetEntry *offset;

	guard_outputs(query, keep);
	expose(add_target(query, keep), KAPPA_COLUMN_KEEP);
	if (!shape->needs_companion)
		return;
	expose(add_target(query, make_message_call(shape, "message_timestamp", INT8OID)),
		   KAPPA_COLUMN_TIMESTAMP);
	add_place(query, shape, &partition, &offset);
	expose_place(partition, offset);
}

/* ---- the four readings ---- */

static Query *
make_delta(Query *definition, const KappaShape *shape, const char *alias)
{
	Query *query;

	if (shape->root->states != NIL)
		definition = kappa_states_make_partial(definition, shape);
	query = copy_with_alias(definition, shape, alias);
	if (shape->root->kind == KAPPA_NODE_LATEST)
		complete_order(query, shape, shape->needs_companion);
	else if (shape->scan->changelog)
		keep_deletions(query, shape);
	return query;
}

Query *
kappa_delta_over_batch(Query *definition, const KappaShape *shape)
{
	return make_delta(definition, shape, KAPPA_BATCH_ALIAS);
}

Query *
kappa_delta_over_stretch(Query *definition, const KappaShape *shape, bool in_memory)
{
	Query *query = make_delta(definition, shape,
							  in_memory ? KAPPA_BATCH_ALIAS : KAPPA_STRETCH_ALIAS);
	TargetEntry *partition;
	TargetEntry *offset;

	if (!shape->scan->changelog || shape->needs_companion)
		return query;
	add_place(query, shape, &partition, &offset);
	expose_place(partition, offset);
	return query;
}

Query *
kappa_delta_over_log(Query *definition, const KappaShape *shape)
{
	Query *query = copy_with_alias(definition, shape, KAPPA_BOUNDED_ALIAS);

	if (shape->root->kind == KAPPA_NODE_LATEST)
		complete_order(query, shape, false);
	return query;
}

Query *
kappa_delta_over_messages(Query *definition, const KappaShape *shape, List *conditions)
{
	Query *query = copy_with_alias(definition, shape, KAPPA_BOUNDED_ALIAS);
	Index rti = shape->scan->source_rti;
	Var *row = makeWholeRowVar(rt_fetch(rti, query->rtable), rti, 0, false);
	Expr *message = (Expr *) makeFuncExpr(F_ROW_TO_JSON_RECORD, JSONOID, list_make1(row),
										  InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);

	query->groupClause = NIL;
	query->havingQual = NULL;
	query->hasAggs = false;
	query->distinctClause = NIL;
	query->hasDistinctOn = false;
	query->sortClause = NIL;
	query->targetList =
		list_make3(makeTargetEntry(make_message_call(shape, "message_partition", INT4OID), 1,
								   "part", false),
				   makeTargetEntry(make_message_call(shape, "message_offset", INT8OID), 2,
								   "place", false),
				   makeTargetEntry(message, 3, "message", false));
	if (query->jointree->quals != NULL)
		conditions = lcons(query->jointree->quals, conditions);
	query->jointree->quals = conditions == NIL ? NULL : (Node *) make_ands_explicit(conditions);
	return query;
}

/*
 * A subquery with the columns of a relation and no rows.  Columns that were
 * dropped count in numbers, and have neither a name nor a place in the text.
 */
static Query *
make_empty_query(Oid relid, List **names)
{
	Query *query = makeNode(Query);
	Relation rel = table_open(relid, AccessShareLock);

	*names = NIL;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->jointree = makeFromExpr(NIL, makeBoolConst(false, false));
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		bool dropped = att->attisdropped;
		char *name = pstrdup(dropped ? "" : NameStr(att->attname));
		Const *null = makeNullConst(dropped ? INT4OID : att->atttypid,
									dropped ? -1 : att->atttypmod,
									dropped ? InvalidOid : att->attcollation);

		query->targetList = lappend(query->targetList,
									makeTargetEntry((Expr *) null, i + 1, name, dropped));
		*names = lappend(*names, makeString(name));
	}
	table_close(rel, AccessShareLock);

	/* Keep the planner from pulling it up, and so from computing with the NULLs. */
	query->limitOffset = (Node *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64),
											Int64GetDatum(0), false, FLOAT8PASSBYVAL);
	return query;
}

Query *
kappa_delta_over_nothing(Query *definition, const KappaShape *shape)
{
	Query *query = kappa_delta_over_batch(definition, shape);
	RangeTblEntry *rte = rt_fetch(shape->scan->source_rti, query->rtable);
	List *names;

	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = make_empty_query(shape->scan->source, &names);
	rte->relid = InvalidOid;
	rte->relkind = 0;
	rte->inh = false;
	rte->alias = makeAlias(KAPPA_BATCH_ALIAS, NIL);
	rte->eref = makeAlias(KAPPA_BATCH_ALIAS, names);
	return query;
}
