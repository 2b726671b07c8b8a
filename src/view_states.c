/*-------------------------------------------------------------------------
 *
 * view_states.c
 *	  Aggregates taken apart: into states, and into what is computed from them
 *
 *		SELECT page, avg(ms) * 2 AS twice FROM clicks GROUP BY page HAVING count(*) > 9
 *
 * becomes, over one batch,
 *
 *		SELECT page, count(*) AS "kappa rows", partial('avg', ms) AS "kappa state 1"
 *		FROM clicks GROUP BY page
 *
 * and, over the states that this has been merged into,
 *
 *		SELECT page, finalize('avg', "kappa state 1") * 2 AS twice
 *		FROM "kappa merged" WHERE "kappa rows" > 9
 *
 * IDENTIFICATION
 *	  src/view_states.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "kappa.h"
#include "view_delta.h"
#include "view_query.h"
#include "view_states.h"

/* ---- calls ---- */

static Oid
lookup_function(const char *name, int nargs, const Oid *types)
{
	return LookupFuncName(list_make2(makeString(KAPPA_SCHEMA), makeString(pstrdup(name))),
						  nargs, types, false);
}

static Expr *
make_aggregate_name(const KappaState *state)
{
	return (Expr *) makeConst(REGPROCEDUREOID, -1, InvalidOid, sizeof(Oid),
							  ObjectIdGetDatum(state->aggref->aggfnoid), false, true);
}

static Expr *
make_null(Oid type, Oid collation)
{
	return (Expr *) makeNullConst(type, -1, collation);
}

/* The call of a generic aggregate with these arguments before those of the original. */
static Expr *
make_partial_call(const KappaState *state, Oid funcid, List *first)
{
	Aggref *partial = copyObject(state->aggref);
	List *args = NIL;
	List *types = NIL;
	ListCell *lc;

	foreach(lc, partial->args)
		first = lappend(first, ((TargetEntry *) lfirst(lc))->expr);
	foreach(lc, first)
	{
		args = lappend(args, makeTargetEntry(lfirst(lc), foreach_current_index(lc) + 1,
											 NULL, false));
		types = lappend_oid(types, exprType(lfirst(lc)));
	}
	partial->aggfnoid = funcid;
	partial->aggtype = state->type;
	partial->aggcollid = state->collation;
	partial->args = args;
	partial->aggargtypes = types;
	partial->aggstar = false;
	return (Expr *) partial;
}

static Expr *
make_partial(const KappaState *state)
{
	bool nothing = state->aggref->args == NIL;
	Oid types[] = { REGPROCEDUREOID, ANYELEMENTOID, ANYOID };

	if (state->kind == KAPPA_STATE_NONE)
		return (Expr *) copyObject(state->aggref);
	if (state->kind == KAPPA_STATE_TYPED)
		return make_partial_call(state, lookup_function("partial_typed", nothing ? 2 : 3, types),
								 list_make2(make_aggregate_name(state),
											make_null(state->type, state->collation)));
	types[1] = ANYOID;
	return make_partial_call(state, lookup_function("partial", nothing ? 1 : 2, types),
							 list_make1(make_aggregate_name(state)));
}

/* A polymorphic aggregate has to be told what it was called with. */
static List *
make_argument_types(const KappaState *state)
{
	List *nulls = NIL;
	ListCell *lc;

	if (kappa_aggregate_is_polymorphic(state->aggref->aggfnoid))
		foreach(lc, state->aggref->aggargtypes)
			nulls = lappend(nulls, make_null(lfirst_oid(lc), get_typcollation(lfirst_oid(lc))));
	return nulls;
}

static Expr *
make_final(const KappaState *state, Var *var)
{
	Oid types[] = { REGPROCEDUREOID, ANYOID, ANYELEMENTOID, ANYOID };
	Oid type = state->aggref->aggtype;
	List *arguments = make_argument_types(state);
	List *args;

	if (state->kind == KAPPA_STATE_NONE)
		return (Expr *) var;
	args = list_concat(list_make3(make_aggregate_name(state), var,
								  make_null(type, state->aggref->aggcollid)),
					   arguments);
	return (Expr *) makeFuncExpr(lookup_function("finalize", arguments == NIL ? 3 : 4, types),
								 type, args, state->aggref->aggcollid,
								 state->aggref->inputcollid, COERCE_EXPLICIT_CALL);
}

/* ---- averages ---- */

static Aggref *
make_other(const Aggref *aggref, Oid funcid, Oid type)
{
	Aggref *other = copyObject(unconstify(Aggref *, aggref));

	other->aggfnoid = funcid;
	other->aggtype = type;
	return other;
}

bool
kappa_states_split(const Aggref *aggref, Aggref **sum, Aggref **count)
{
	if (aggref->aggfnoid != F_AVG_NUMERIC && aggref->aggfnoid != F_AVG_INT8)
		return false;
	*sum = make_other(aggref, aggref->aggfnoid == F_AVG_INT8 ? F_SUM_INT8 : F_SUM_NUMERIC,
					  NUMERICOID);
	*count = make_other(aggref, F_COUNT_ANY, INT8OID);
	return true;
}

/* As the aggregate's final function does.  Of no values the sum is NULL. */
static Expr *
make_quotient(Node *sum, Node *count)
{
	Expr *divisor = (Expr *) makeFuncExpr(F_NUMERIC_INT8, NUMERICOID, list_make1(count),
										  InvalidOid, InvalidOid, COERCE_EXPLICIT_CAST);

	return (Expr *) makeFuncExpr(F_NUMERIC_DIV, NUMERICOID, list_make2(sum, divisor),
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

/* ---- states of a batch ---- */

/* What GROUP BY says of an expression. */
static SortGroupClause *
find_group_clause(const Query *query, Expr *expression)
{
	ListCell *lc;

	foreach(lc, query->groupClause)
	{
		SortGroupClause *clause = lfirst(lc);

		if (equal(get_sortgroupclause_tle(clause, query->targetList)->expr, expression))
			return clause;
	}
	elog(ERROR, "a key column is not in GROUP BY");
	return NULL;
}

Query *
kappa_states_make_partial(Query *definition, const KappaShape *shape)
{
	Query *query = kappa_query_resolve_aliases(definition);
	List *targets = NIL;
	List *clauses = NIL;
	ListCell *lc;

	foreach(lc, shape->key)
	{
		TargetEntry *tle = copyObject(get_tle_by_resno(query->targetList, lfirst_int(lc)));
		SortGroupClause *clause = find_group_clause(query, tle->expr);

		/* Of several columns with this expression GROUP BY may mean another one. */
		tle->ressortgroupref = clause->tleSortGroupRef;
		tle->resno = list_length(targets) + 1;
		targets = lappend(targets, tle);
		clauses = lappend(clauses, clause);
	}
	foreach(lc, shape->root->states)
	{
		KappaState *state = lfirst(lc);

		targets = lappend(targets, makeTargetEntry(make_partial(state), list_length(targets) + 1,
												   pstrdup(state->name), false));
	}
	query->targetList = targets;
	query->groupClause = clauses;
	query->havingQual = NULL;
	query->hasAggs = true;
	return query;
}

/* ---- rows from states ---- */

typedef struct StateColumns
{
	const KappaShape *shape;
	List *keys;       /* expressions of the key columns, as they stand in the outer query */
	int sublevels_up; /* of the query around the expression, to the outer one */
} StateColumns;

static Var *
make_column(const StateColumns *columns, AttrNumber attno, Oid type, int32 typmod, Oid collation)
{
	return makeVar(1, attno, type, typmod, collation, columns->sublevels_up);
}

/* An expression of the outer query, as it would stand in a query inside. */
static Node *
move_inside(const StateColumns *columns, const void *node)
{
	Node *copy = copyObject((Node *) node);

	IncrementVarSublevelsUp(copy, columns->sublevels_up, 0);
	return copy;
}

/* The column that holds what the node computes; NULL if none does. */
static Node *
find_column(Node *node, const StateColumns *columns)
{
	Aggref *sum;
	Aggref *count;
	ListCell *lc;

	foreach(lc, columns->keys)
	{
		if (equal(move_inside(columns, lfirst(lc)), node))
			return (Node *) make_column(columns, foreach_current_index(lc) + 1, exprType(node),
										exprTypmod(node), exprCollation(node));
	}
	if (!IsA(node, Aggref))
		return NULL;
	if (((Aggref *) node)->agglevelsup == columns->sublevels_up &&
		kappa_states_split((Aggref *) node, &sum, &count))
		return (Node *) make_quotient(find_column((Node *) sum, columns),
									  find_column((Node *) count, columns));
	foreach(lc, columns->shape->root->states)
	{
		KappaState *state = lfirst(lc);
		AttrNumber attno = list_length(columns->keys) + foreach_current_index(lc) + 1;

		if (equal(move_inside(columns, state->aggref), node))
			return (Node *) make_final(state, make_column(columns, attno, state->type, -1,
														  state->collation));
	}
	return NULL;
}

static Node *
replace_by_columns(Node *node, StateColumns *columns)
{
	Node *column;

	if (node == NULL)
		return NULL;
	column = find_column(node, columns);
	if (column != NULL)
		return column;
	if (IsA(node, GroupingFunc) && ((GroupingFunc *) node)->agglevelsup == columns->sublevels_up)
		return (Node *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(0),
								  false, true); /* there is but one set */
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == columns->sublevels_up)
		elog(ERROR, "a column is neither grouped nor aggregated");
	if (IsA(node, Query))
	{
		Query *query;

		columns->sublevels_up++;
		query = query_tree_mutator((Query *) node, replace_by_columns, columns, 0);
		columns->sublevels_up--;
		return (Node *) query;
	}
	return expression_tree_mutator(node, replace_by_columns, columns);
}

/* FROM merged, with the companion's columns. */
static Query *
make_query_over_states(const KappaShape *shape)
{
	Query *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);
	List *names = NIL;
	ListCell *lc;

	foreach(lc, shape->key)
	{
		KappaOutput *output = list_nth(shape->outputs, lfirst_int(lc) - 1);

		names = lappend(names, makeString(pstrdup(output->name)));
	}
	foreach(lc, shape->root->states)
		names = lappend(names, makeString(pstrdup(((KappaState *) lfirst(lc))->name)));
	names = lappend(names, makeString(KAPPA_COLUMN_STORED));
	names = lappend(names, makeString(KAPPA_COLUMN_SHOWN));

	rte->rtekind = RTE_CTE;
	rte->ctename = KAPPA_MERGED;
	rte->eref = makeAlias(KAPPA_MERGED, names);
	rte->inFromCl = true;
	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	return query;
}

static void
add_column(Query *query, Expr *expression, const char *name)
{
	query->targetList = lappend(query->targetList,
								makeTargetEntry(expression, list_length(query->targetList) + 1,
												pstrdup(name), false));
}

static Node *
negate(Node *condition)
{
	BooleanTest *test = makeNode(BooleanTest);

	test->arg = (Expr *) condition;
	test->booltesttype = IS_NOT_TRUE;
	test->location = -1;
	return (Node *) test;
}

/* The states as they are, where both rows of the key are, and whether the view has one. */
static void
add_places(Query *query, StateColumns *columns, bool hidden)
{
	AttrNumber attno = list_length(columns->keys);
	ListCell *lc;

	foreach(lc, columns->shape->root->states)
	{
		KappaState *state = lfirst(lc);

		add_column(query, (Expr *) make_column(columns, ++attno, state->type, -1, state->collation),
				   state->name);
	}
	add_column(query, (Expr *) make_column(columns, ++attno, TIDOID, -1, InvalidOid),
			   KAPPA_COLUMN_STORED);
	add_column(query, (Expr *) make_column(columns, ++attno, TIDOID, -1, InvalidOid),
			   KAPPA_COLUMN_SHOWN);
	add_column(query, (Expr *) makeBoolConst(!hidden, false), KAPPA_COLUMN_KEEP);
}

static Query *
make_final_query(Query *definition, const KappaShape *shape, bool hidden, bool placed)
{
	Query *original = kappa_query_resolve_aliases(definition);
	Query *query = make_query_over_states(shape);
	StateColumns columns = { shape };
	ListCell *lc;

	foreach(lc, shape->key)
		columns.keys = lappend(columns.keys,
							   get_tle_by_resno(original->targetList, lfirst_int(lc))->expr);
	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);
		Node *expression = (Node *) get_tle_by_resno(original->targetList, output->resno)->expr;

		if (!hidden || output->role == KAPPA_OUTPUT_KEY)
			add_column(query, (Expr *) replace_by_columns(expression, &columns), output->name);
		else if (placed)
			/* A domain may refuse NULL. */
			add_column(query, make_null(getBaseType(output->type), output->collation),
					   output->name);
	}
	if (placed)
		add_places(query, &columns, hidden);
	query->hasSubLinks = original->hasSubLinks;
	query->jointree->quals = replace_by_columns(original->havingQual, &columns);
	if (hidden)
		query->jointree->quals = negate(query->jointree->quals);
	return kappa_delta_guard_datetimes(query);
}

Query *
kappa_states_make_final(Query *definition, const KappaShape *shape, bool hidden)
{
	return make_final_query(definition, shape, hidden, false);
}

Query *
kappa_states_make_placed(Query *definition, const KappaShape *shape, bool hidden)
{
	return make_final_query(definition, shape, hidden, true);
}
