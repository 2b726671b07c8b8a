/*-------------------------------------------------------------------------
 *
 * view_expressions.c
 *	  What the expressions of a query may do
 *
 * A message must mean the same whenever it is read, by a live view, by a
 * rebuild, or by somebody who checks the view.  So nothing in an expression
 * may depend on the clock, on chance, or on who asks; and nothing on where a
 * row of the topic happens to stand in memory.  Subqueries may read ordinary
 * tables: they are lookups, wherever they stand.
 *
 * IDENTIFICATION
 *	  src/view_expressions.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "view_flatten.h"
#include "view_functions.h"
#include "view_query.h"
#include "view_refuse.h"

#define CLOCK_HINT "Use a timestamp of the message instead, such as a column with the option metadata 'timestamp'."

typedef struct ExpressionCheck
{
	KappaQuery *kq;
	int sublevels_up;     /* of the query around the expression, to the query under analysis */
	bool in_expression;   /* that query is, or is in, a subquery of an expression */
	const char *obstacle; /* what keeps a subquery in FROM from being flattened; NULL if nothing */
	Node *node;           /* whose functions are being checked */
} ExpressionCheck;

static bool check_expression(Node *node, ExpressionCheck *check);

static int
get_location(ExpressionCheck *check, Node *node)
{
	KappaQuery *kq = check->kq;
	int location = exprLocation(node);

	if (kq->hidden_depth > 0)
		return kq->hidden_location;

	/* What has no place in the text comes from an SQL view: point at its name. */
	if (location < 0 && OidIsValid(kq->scan->source))
		location = kappa_refuse_locate(kq->pstate,
									   rt_fetch(kq->scan->source_rti, kq->query->rtable));
	return location;
}

static void
refuse_node(ExpressionCheck *check, Node *node, const char *message, const char *hint)
{
	kappa_refuse(check->kq->pstate, get_location(check, node), message, hint);
}

/* ---- functions ---- */

static void
refuse_volatile(ExpressionCheck *check, Oid funcid, const char *name)
{
	const char *hint = "The same message must give the same row whenever it is read.  Let the producer put such a value into the message.";

	if (funcid >= FirstGenbkiObjectId)
		hint = "The same message must give the same row whenever it is read.  If the function's result depends on its arguments alone, declare it IMMUTABLE.";
	refuse_node(check, check->node, psprintf("function %s() is volatile", name), hint);
}

static void
check_function_class(ExpressionCheck *check, Oid funcid)
{
	const char *name = get_func_name(funcid);

	switch (kappa_function_classify(funcid))
	{
		case KAPPA_FUNCTION_PURE:
			break;
		case KAPPA_FUNCTION_LOOKUP:
			check->kq->calls_lookups = true;
			break;
		case KAPPA_FUNCTION_CLOCK:
			refuse_node(check, check->node,
						psprintf("function %s() reads the clock", name),
						CLOCK_HINT);
			break;
		case KAPPA_FUNCTION_SESSION:
			refuse_node(check, check->node,
						psprintf("function %s() depends on the state of the session or the server", name),
						"A view of kappa depends on its messages alone.");
			break;
		case KAPPA_FUNCTION_VOLATILE:
			refuse_volatile(check, funcid, name);
			break;
	}
}

static bool
check_function(Oid funcid, void *context)
{
	ExpressionCheck *check = context;
	ListCell *lc;

	if (!IsA(check->node, Aggref) &&
		!(IsA(check->node, WindowFunc) && castNode(WindowFunc, check->node)->winagg))
	{
		check_function_class(check, funcid);
		return false;
	}

	/* Every aggregate of a user is called immutable; its functions tell what it does. */
	foreach(lc, kappa_function_of_aggregate(funcid))
		check_function_class(check, lfirst_oid(lc));
	return false;
}

/* Comparing the arguments of GREATEST and LEAST is a function call as well. */
static void
check_comparison(ExpressionCheck *check, Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_CMP_PROC);

	if (OidIsValid(entry->cmp_proc))
		check_function_class(check, entry->cmp_proc);
}

/* ---- datetimes from text ---- */

static void
refuse_timetz(ExpressionCheck *check, Node *node)
{
	refuse_node(check, node,
				"a conversion to time with time zone reads the clock",
				"The offset of a time zone depends on the date.  Use time or timestamp with time zone.");
}

/*
 * Text that becomes a datetime may say 'now'.  The words are kept out when
 * the messages are read, by a call that view_delta.c puts around the text.  A
 * constant is better looked at by the parser, which makes it a point in time
 * for good.
 */
static void
check_text_conversion(ExpressionCheck *check, Node *node, Expr *argument)
{
	Oid type = exprType(node);
	Node *source = strip_implicit_coercions((Node *) argument);

	while (IsA(source, RelabelType))
		source = (Node *) ((RelabelType *) source)->arg;
	if (kappa_type_takes_timetz(type))
		refuse_timetz(check, node);
	if (IsA(source, Const) && !((Const *) source)->constisnull &&
		kappa_type_takes_clock_words(type))
		refuse_node(check, node,
					psprintf("a constant text is converted to type %s for each message",
							 format_type_be(type)),
					psprintf("Write the constant as %s '...'.", format_type_be(type)));
}

/*
 * Functions and constructs that read columns of given types from a document:
 * the words of the clock cannot be kept out of those.
 */
static void
check_document_type(ExpressionCheck *check, Node *node, Oid type)
{
	if (kappa_type_takes_clock_words(type))
		refuse_node(check, node,
					psprintf("type %s read from a document inside the query may depend on the clock",
							 format_type_be(type)),
					"Read the field as text and cast it, or declare it as a column of the foreign table.");
}

static void
check_document_types(ExpressionCheck *check, Node *node, List *types)
{
	ListCell *lc;

	foreach(lc, types)
		check_document_type(check, node, lfirst_oid(lc));
}

static void
check_function_in_from(ExpressionCheck *check, RangeTblFunction *function)
{
	if (IsA(function->funcexpr, FuncExpr) &&
		kappa_function_reads_json(((FuncExpr *) function->funcexpr)->funcid))
		check_document_types(check, function->funcexpr, function->funccoltypes);
}

/* ---- single nodes ---- */

static const char *
get_value_function_name(SQLValueFunctionOp op)
{
	switch (op)
	{
		case SVFOP_CURRENT_DATE:
			return "current_date";
		case SVFOP_CURRENT_TIME:
		case SVFOP_CURRENT_TIME_N:
			return "current_time";
		case SVFOP_CURRENT_TIMESTAMP:
		case SVFOP_CURRENT_TIMESTAMP_N:
			return "current_timestamp";
		case SVFOP_LOCALTIME:
		case SVFOP_LOCALTIME_N:
			return "localtime";
		case SVFOP_LOCALTIMESTAMP:
		case SVFOP_LOCALTIMESTAMP_N:
			return "localtimestamp";
		case SVFOP_CURRENT_ROLE:
			return "current_role";
		case SVFOP_CURRENT_USER:
			return "current_user";
		case SVFOP_USER:
			return "user";
		case SVFOP_SESSION_USER:
			return "session_user";
		case SVFOP_CURRENT_CATALOG:
			return "current_catalog";
		case SVFOP_CURRENT_SCHEMA:
			return "current_schema";
	}
	elog(ERROR, "unrecognized SQLValueFunctionOp: %d", (int) op);
	return NULL;
}

static void
refuse_value_function(ExpressionCheck *check, SQLValueFunction *function)
{
	const char *name = get_value_function_name(function->op);

	if (function->op < SVFOP_CURRENT_ROLE)
		refuse_node(check, (Node *) function,
					psprintf("%s reads the clock", name), CLOCK_HINT);
	refuse_node(check, (Node *) function,
				psprintf("%s depends on the state of the session or the server", name),
				"A view of kappa depends on its messages alone.");
}

static void
check_domain(ExpressionCheck *check, Node *node, Oid type)
{
	DomainConstraintRef *constraints = palloc0(sizeof(DomainConstraintRef));
	ListCell *lc;

	if (get_typtype(type) != TYPTYPE_DOMAIN)
		return;
	InitDomainConstraintRef(type, constraints, CurrentMemoryContext, false);
	check->kq->hidden_location = get_location(check, node);
	check->kq->hidden_depth++;
	foreach(lc, constraints->constraints)
	{
		DomainConstraintState *constraint = lfirst(lc);
		ExpressionCheck inner = { check->kq };

		(void) check_expression((Node *) constraint->check_expr, &inner);
	}
	check->kq->hidden_depth--;
}

static void
check_variable(ExpressionCheck *check, Var *var)
{
	KappaNode *scan = check->kq->scan;

	if (var->varlevelsup != check->sublevels_up || var->varno != scan->source_rti)
		return;
	if (var->varattno < 0)
		refuse_node(check, (Node *) var,
					"system columns of a topic cannot be used in a view of kappa",
					"Partition, offset and timestamp of a message are columns with the option metadata.");
	if (var->varattno == 0)
		refuse_node(check, (Node *) var,
					"a whole row of a topic cannot be used in a view of kappa",
					"Name the columns that the view needs.");
	scan->columns = bms_add_member(scan->columns, var->varattno);
	check_domain(check, (Node *) var, var->vartype);
}

/* ---- the walk ---- */

static void
refuse_nested_topic(ExpressionCheck *check, RangeTblEntry *rte, int location)
{
	const char *name = get_rel_name(rte->relid);

	if (check->obstacle != NULL)
		kappa_refuse(check->kq->pstate, location,
					 psprintf("topic \"%s\" is read inside a subquery or an SQL view with %s", name, check->obstacle),
					 "A subquery in FROM or an SQL view may read the topic if it consists of expressions, joins and WHERE alone.");
	kappa_refuse(check->kq->pstate, location,
				 psprintf("topic \"%s\" cannot be read inside a subquery or an SQL view here", name),
				 "A view of kappa reads one topic, once, in FROM of the outer query, or of a subquery or an SQL view there.");
}

static void
check_nested_entry(ExpressionCheck *check, RangeTblEntry *rte)
{
	int location;

	/* A view's tree also holds the view itself, outside of FROM. */
	if (check->sublevels_up == 0 || rte->rtekind != RTE_RELATION || !rte->inFromCl)
		return;
	location = kappa_refuse_locate(check->kq->pstate, rte);
	if (check->kq->hidden_depth > 0)
		location = check->kq->hidden_location;
	if (kappa_options_is_topic(rte->relid))
		refuse_nested_topic(check, rte, location);
	kappa_query_check_lookup(check->kq, rte, location);
}

static bool
check_subquery(ExpressionCheck *check, Query *query)
{
	const char *obstacle = check->obstacle;
	bool result;

	if (query->rowMarks != NIL)
		refuse_node(check, (Node *) query->targetList,
					"FOR UPDATE and FOR SHARE are not supported in a view of kappa", NULL);
	check_stack_depth();
	check->sublevels_up++;
	if (obstacle == NULL && !check->in_expression)
		check->obstacle = kappa_flatten_get_obstacle(query);
	result = query_tree_walker(query, check_expression, check, QTW_EXAMINE_RTES_BEFORE);
	check->obstacle = obstacle;
	check->sublevels_up--;
	return result;
}

static void
check_node(ExpressionCheck *check, Node *node)
{
	switch (nodeTag(node))
	{
		case T_Var:
			check_variable(check, (Var *) node);
			break;
		case T_Param:
			if (((Param *) node)->paramkind == PARAM_EXTERN)
				refuse_node(check, node, "parameters are not supported in a view of kappa", NULL);
			break;
		case T_SQLValueFunction:
			refuse_value_function(check, (SQLValueFunction *) node);
			break;
		case T_NextValueExpr:
			refuse_node(check, node, "function nextval() is volatile", NULL);
			break;
		case T_MinMaxExpr:
			check_comparison(check, exprType(node));
			break;
		case T_CoerceViaIO:
			check_text_conversion(check, node, ((CoerceViaIO *) node)->arg);
			break;
		case T_ArrayCoerceExpr:
			if (IsA(((ArrayCoerceExpr *) node)->elemexpr, CoerceViaIO))
				check_text_conversion(check, node, ((ArrayCoerceExpr *) node)->arg);
			break;
		case T_CoerceToDomain:
			check_domain(check, node, ((CoerceToDomain *) node)->resulttype);
			break;
		case T_FuncExpr:
			if (kappa_function_reads_json(((FuncExpr *) node)->funcid))
				check_document_type(check, node, ((FuncExpr *) node)->funcresulttype);
			break;
		case T_RangeTblFunction:
			check_function_in_from(check, (RangeTblFunction *) node);
			break;
		case T_TableFunc:
			check_document_types(check, node, ((TableFunc *) node)->coltypes);
			break;
		default:
			if (IsJsonValueExpr(node))
				check_document_type(check, node, exprType(node));
			break;
	}
}

static bool
check_expression(Node *node, ExpressionCheck *check)
{
	bool in_expression = check->in_expression;
	bool result;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return check_subquery(check, (Query *) node);
	if (IsA(node, RangeTblEntry))
	{
		check_nested_entry(check, (RangeTblEntry *) node);
		return false;
	}
	check_node(check, node);
	check->node = node;
	(void) check_functions_in_node(node, check_function, check);
	check->in_expression = in_expression || IsA(node, SubLink);
	result = expression_tree_walker(node, check_expression, check);
	check->in_expression = in_expression;
	return result;
}

void
kappa_query_check_expressions(KappaQuery *kq)
{
	ExpressionCheck check = { kq };

	/* Every column of a joined topic is an alias of the join, used or not. */
	(void) query_tree_walker(kq->query, check_expression, &check,
							 QTW_IGNORE_JOINALIASES | QTW_EXAMINE_RTES_BEFORE);
}

void
kappa_query_check_view(KappaQuery *kq, Query *view_query)
{
	ExpressionCheck check = { kq };

	(void) check_subquery(&check, view_query);
}
