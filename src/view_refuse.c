/*-------------------------------------------------------------------------
 *
 * view_refuse.c
 *	  Saying no to a query, with a position and a way out
 *
 * IDENTIFICATION
 *	  src/view_refuse.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "nodes/nodeFuncs.h"
#include "parser/parser.h"
#include "utils/lsyscache.h"

#include "fdw_options.h"
#include "view_refuse.h"

typedef struct RelationSearch
{
	const char *refname;
	const char *relname; /* NULL: any */
	int location;
} RelationSearch;

int
kappa_refuse_position(ParseState *pstate, int location)
{
	if (location < 0 || pstate->p_sourcetext == NULL)
		return 0;
	internalerrposition(pg_mbstrlen_with_len(pstate->p_sourcetext, location) + 1);
	internalerrquery(pstate->p_sourcetext);
	return 0;
}

void
kappa_refuse(ParseState *pstate, int location, const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s", message),
			 hint != NULL ? errhint("%s", hint) : 0,
			 kappa_refuse_position(pstate, location)));
}

static bool
find_relation(Node *node, RelationSearch *search)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeVar))
	{
		RangeVar *name = (RangeVar *) node;
		const char *refname = name->alias != NULL ? name->alias->aliasname : name->relname;

		if (strcmp(refname, search->refname) == 0 &&
			(search->relname == NULL || strcmp(name->relname, search->relname) == 0))
		{
			search->location = name->location;
			return true;
		}
		return false;
	}
	return raw_expression_tree_walker(node, find_relation, search);
}

int
kappa_refuse_locate(ParseState *pstate, const RangeTblEntry *rte)
{
	RelationSearch search = { rte->eref->aliasname, NULL, -1 };
	List *statements;
	ListCell *lc;

	if (pstate->p_sourcetext == NULL)
		return -1;
	if (rte->rtekind == RTE_RELATION)
		search.relname = get_rel_name(rte->relid);
	statements = raw_parser(pstate->p_sourcetext, RAW_PARSE_DEFAULT);
	foreach(lc, statements)
	{
		if (find_relation(lfirst_node(RawStmt, lc)->stmt, &search))
			break;
	}

	/* An SQL view that was pulled up has left its name to the topic. */
	if (search.location < 0 && rte->rtekind == RTE_RELATION &&
		kappa_options_is_topic(rte->relid))
	{
		search.relname = NULL;
		foreach(lc, statements)
			(void) find_relation(lfirst_node(RawStmt, lc)->stmt, &search);
	}
	return search.location;
}
