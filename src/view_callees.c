/*-------------------------------------------------------------------------
 *
 * view_callees.c
 *	  Whether the text of a statement calls what the view's query calls
 *
 * A definition knows a function by its OID; the statements that are made of it
 * are text, and the parser finds a function by its name and the types of its
 * arguments.  Deparsing qualifies names, but that does not help against a
 * function that somebody adds to the same schema and that fits better: one of
 * integer where the query has called one of anyelement.  It would be called,
 * as the view's owner, by whoever may create functions in that schema.
 *
 * So what the parser makes of such a text is looked at before it is planned,
 * in the hook that PostgreSQL has there.  The plan cache may parse a text again
 * at a moment of its own choice, and comes by here, too.
 *
 * Input and output functions of types, and the members of operator families,
 * are not found by name, and only superusers make them.
 *
 * IDENTIFICATION
 *	  src/view_callees.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "lib/ilist.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "kappa.h"
#include "view_callees.h"
#include "view_functions.h"

/* In the memory context that it lives as long as. */
typedef struct Expectation
{
	MemoryContextCallback on_reset;
	dlist_node node;
	const char *text;
	Size length;
	List *functions; /* OIDs */
} Expectation;

static dlist_head expectations = DLIST_STATIC_INIT(expectations);
static post_parse_analyze_hook_type next_post_parse_analyze = NULL;

/* ---- what a definition calls ---- */

static bool
add_function(Oid funcid, void *functions)
{
	*(List **) functions = list_append_unique_oid(*(List **) functions, funcid);
	return false;
}

static bool
collect_functions(Node *node, void *functions)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, collect_functions, functions, 0);
	(void) check_functions_in_node(node, add_function, functions);
	if (IsA(node, Aggref))
		*(List **) functions =
			list_concat_unique_oid(*(List **) functions,
								   kappa_function_of_aggregate(((Aggref *) node)->aggfnoid));
	return expression_tree_walker(node, collect_functions, functions);
}

/* ---- what a text calls ---- */

static bool
is_unknown(Oid funcid, void *functions)
{
	if (funcid < FirstNormalObjectId || list_member_oid(functions, funcid) ||
		get_func_namespace(funcid) == get_namespace_oid(KAPPA_SCHEMA, true))
		return false;
	ereport(ERROR,
			(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
			 errmsg("function %s is not one that the view's query calls",
					format_procedure(funcid)),
			 errdetail("It would be called in the place of one that is: it was made since, with the same name, and fits the arguments better."),
			 errhint("Drop or rename it.")));
	return true;
}

/* Does an operator belong to an operator family? */
static bool
is_in_family(Oid opno)
{
	CatCList *members = SearchSysCacheList1(AMOPOPID, ObjectIdGetDatum(opno));
	bool found = members->n_members > 0;

	ReleaseSysCacheList(members);
	return found;
}

static bool
is_family_operator(Node *node)
{
	switch (nodeTag(node))
	{
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			return is_in_family(((OpExpr *) node)->opno);
		case T_ScalarArrayOpExpr:
			return is_in_family(((ScalarArrayOpExpr *) node)->opno);
		case T_RowCompareExpr:
			return true;
		default:
			return false;
	}
}

static bool
check_callees(Node *node, void *functions)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, check_callees, functions, 0);
	if (!IsA(node, CoerceViaIO) && !is_family_operator(node))
		(void) check_functions_in_node(node, is_unknown, functions);
	return expression_tree_walker(node, check_callees, functions);
}

static void
check_parsed_query(ParseState *pstate, Query *query, struct JumbleState *jumble)
{
	Size length = pstate->p_sourcetext == NULL ? 0 : strlen(pstate->p_sourcetext);
	dlist_iter iter;

	if (next_post_parse_analyze != NULL)
		next_post_parse_analyze(pstate, query, jumble);
	dlist_foreach(iter, &expectations)
	{
		Expectation *expectation = dlist_container(Expectation, node, iter.cur);

		if (expectation->length != length || length == 0 ||
			memcmp(expectation->text, pstate->p_sourcetext, length) != 0)
			continue;
		(void) check_callees((Node *) query, expectation->functions);
		break;
	}
}

/* ---- expecting ---- */

static void
forget_expectation(void *arg)
{
	dlist_delete(&((Expectation *) arg)->node);
}

void
kappa_callees_expect(const char *text, Query *definition)
{
	Expectation *expectation = palloc0(sizeof(Expectation));

	expectation->text = text;
	expectation->length = strlen(text);
	(void) collect_functions((Node *) definition, &expectation->functions);
	expectation->on_reset.func = forget_expectation;
	expectation->on_reset.arg = expectation;
	dlist_push_head(&expectations, &expectation->node);
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &expectation->on_reset);
}

void
kappa_callees_init(void)
{
	next_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = check_parsed_query;
}
