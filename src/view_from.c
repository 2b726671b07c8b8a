/*-------------------------------------------------------------------------
 *
 * view_from.c
 *	  What a query may read
 *
 * One topic, in FROM of the outer query, where every message meets the rest of
 * FROM by itself: then the query over the log is the sum of the queries over
 * its batches.  That excludes the nullable side of an outer join, where a row
 * without a match depends on all messages.
 *
 * Over a changelog, one message is one row of the view or none.  There the
 * rest of FROM must give at most one row for each row of the topic, whatever
 * the tables hold.
 *
 * IDENTIFICATION
 *	  src/view_from.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "kappa.h"
#include "view_flatten.h"
#include "view_query.h"
#include "view_refuse.h"

/* ---- lookups ---- */

/* Children of a table may be foreign tables: remote, or even topics. */
static bool
has_foreign_children(Oid relid)
{
	ListCell *lc;

	if (!has_subclass(relid))
		return false;
	foreach(lc, find_all_inheritors(relid, AccessShareLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			return true;
	}
	return false;
}

static void
check_lookup_kind(KappaQuery *kq, Oid relid, int location)
{
	const char *name = get_rel_name(relid);

	switch (get_rel_relkind(relid))
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_MATVIEW:
		case RELKIND_VIEW:
			break;
		case RELKIND_FOREIGN_TABLE:
			kappa_refuse(kq->pstate, location,
						 psprintf("foreign table \"%s\" cannot be looked up", name),
						 "Another server would be asked inside every batch.  Copy its rows into an ordinary table, or a materialized view.");
			break;
		default:
			kappa_refuse(kq->pstate, location,
						 psprintf("relation \"%s\" is not a table", name), NULL);
			break;
	}
	if (has_foreign_children(relid))
		kappa_refuse(kq->pstate, location,
					 psprintf("table \"%s\" has foreign tables as partitions or children", name),
					 "Look up a table that holds its rows itself.");
	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		kappa_refuse(kq->pstate, location,
					 psprintf("temporary table \"%s\" cannot be looked up", name),
					 "No other session can see a temporary table.");
}

static void
check_lookup_origin(KappaQuery *kq, Oid relid, int location)
{
	const char *name = get_rel_name(relid);
	const char *namespace = get_namespace_name(get_rel_namespace(relid));

	if (IsCatalogRelationOid(relid))
		kappa_refuse(kq->pstate, location,
					 psprintf("system catalog \"%s\" cannot be looked up", name), NULL);
	if (strcmp(namespace, KAPPA_SCHEMA) == 0 || strcmp(namespace, KAPPA_STATE_SCHEMA) == 0)
		kappa_refuse(kq->pstate, location,
					 psprintf("\"%s.%s\" cannot be looked up", namespace, name), NULL);
	if (kappa_catalog_get_view(relid) != NULL)
		kappa_refuse(kq->pstate, location,
					 psprintf("\"%s\" is a view of kappa, and cannot be looked up by another one", name),
					 "The two would be kept at different speeds.  Join the views in an SQL view.");
}

static void
check_view_query(KappaQuery *kq, const RangeTblEntry *rte, int location)
{
	Relation rel = table_open(rte->relid, AccessShareLock);
	Query *query = copyObject(get_view_query(rel));
	bool barrier = RelationIsSecurityView(rel);

	table_close(rel, NoLock);
	if (barrier && kappa_flatten_holds_topic(rte))
		kappa_refuse(kq->pstate, location,
					 psprintf("SQL view \"%s\", which reads a topic, is a security barrier",
							  get_rel_name(rte->relid)),
					 "A view of kappa reads the topic with its owner's rights.  Read the foreign table, or an SQL view without security_barrier.");
	if (kq->hidden_depth++ == 0)
		kq->hidden_location = location;
	kappa_query_check_view(kq, query);
	kq->hidden_depth--;
}

void
kappa_query_check_lookup(KappaQuery *kq, const RangeTblEntry *rte, int location)
{
	if (rte->tablesample != NULL)
		kappa_refuse(kq->pstate, location,
					 "TABLESAMPLE is not supported in a view of kappa", NULL);
	check_lookup_kind(kq, rte->relid, location);
	check_lookup_origin(kq, rte->relid, location);
	kq->scan->lookups = list_append_unique_oid(kq->scan->lookups, rte->relid);
	if (get_rel_relkind(rte->relid) == RELKIND_VIEW)
		check_view_query(kq, rte, location);
}

/* ---- the topic ---- */

static void
refuse_nullable(KappaQuery *kq, const char *what, int location)
{
	kappa_refuse(kq->pstate, location,
				 psprintf("%s is on the nullable side of an outer join", what),
				 "A row without a match would have to disappear when a message comes.  Put the topic on the left of LEFT JOIN.");
}

static void
check_topic(KappaQuery *kq, Index rti, bool nullable)
{
	RangeTblEntry *rte = rt_fetch(rti, kq->query->rtable);
	KappaNode *scan = kq->scan;
	const char *name = get_rel_name(rte->relid);
	int location = kappa_refuse_locate(kq->pstate, rte);

	if (OidIsValid(scan->source) && scan->source == rte->relid)
		kappa_refuse(kq->pstate, location,
					 psprintf("topic \"%s\" is read twice", name),
					 "A view of kappa reads one topic, once.");
	if (OidIsValid(scan->source))
		kappa_refuse(kq->pstate, location,
					 psprintf("the query reads two topics, \"%s\" and \"%s\"",
							  get_rel_name(scan->source), name),
					 "Make a view for each topic, and join the views in an SQL view.");
	if (rte->tablesample != NULL)
		kappa_refuse(kq->pstate, location,
					 "TABLESAMPLE is not supported in a view of kappa", NULL);
	if (nullable)
		refuse_nullable(kq, psprintf("topic \"%s\"", name), location);
	if (rte->inh && has_subclass(rte->relid))
		kappa_refuse(kq->pstate, location,
					 psprintf("topic \"%s\" has tables that inherit from it", name),
					 "Write ONLY before its name.");
	scan->source = rte->relid;
	scan->source_rti = rti;
}

static void
check_entry(KappaQuery *kq, Index rti, bool nullable)
{
	RangeTblEntry *rte = rt_fetch(rti, kq->query->rtable);

	if (rte->rtekind == RTE_RELATION && kappa_options_is_topic(rte->relid))
		check_topic(kq, rti, nullable);
	else if (nullable && kappa_flatten_holds_topic(rte))
		refuse_nullable(kq, psprintf("\"%s\", which reads a topic,", rte->eref->aliasname),
						rte->rtekind == RTE_SUBQUERY
							? exprLocation((Node *) rte->subquery->targetList)
							: kappa_refuse_locate(kq->pstate, rte));
	if (rte->alias != NULL &&
		(strcmp(rte->alias->aliasname, KAPPA_BATCH_ALIAS) == 0 ||
		 strcmp(rte->alias->aliasname, KAPPA_BOUNDED_ALIAS) == 0 ||
		 strcmp(rte->alias->aliasname, KAPPA_STRETCH_ALIAS) == 0))
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("table alias \"%s\" is reserved for kappa", rte->alias->aliasname),
				 kappa_refuse_position(kq->pstate, kappa_refuse_locate(kq->pstate, rte))));
}

static void
check_from_item(KappaQuery *kq, Node *node, bool nullable)
{
	if (IsA(node, RangeTblRef))
		check_entry(kq, ((RangeTblRef *) node)->rtindex, nullable);
	else if (IsA(node, JoinExpr))
	{
		JoinExpr *join = (JoinExpr *) node;

		check_from_item(kq, join->larg,
						nullable || join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL);
		check_from_item(kq, join->rarg,
						nullable || join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL);
	}
	else
		elog(ERROR, "unrecognized node type: %d", (int) nodeTag(node));
}

/* Relations beside the topic; what is not a relation is checked as an expression. */
static void
check_other_item(KappaQuery *kq, Node *node)
{
	if (IsA(node, JoinExpr))
	{
		check_other_item(kq, ((JoinExpr *) node)->larg);
		check_other_item(kq, ((JoinExpr *) node)->rarg);
	}
	else
	{
		Index rti = ((RangeTblRef *) node)->rtindex;
		RangeTblEntry *rte = rt_fetch(rti, kq->query->rtable);

		if (rte->rtekind == RTE_RELATION && rti != kq->scan->source_rti)
			kappa_query_check_lookup(kq, rte, kappa_refuse_locate(kq->pstate, rte));
	}
}

/* ---- at most one row for each row of a changelog ---- */

/* Does the clause say "column = something that is not of the table", with the index's idea of equality? */
static bool
clause_fixes_column(Node *clause, Index rti, AttrNumber attnum, Oid opfamily, Oid collation)
{
	OpExpr *op = (OpExpr *) clause;

	if (!IsA(clause, OpExpr) || list_length(op->args) != 2 ||
		get_op_opfamily_strategy(op->opno, opfamily) != BTEqualStrategyNumber ||
		(OidIsValid(collation) && op->inputcollid != collation))
		return false;
	for (int i = 0; i < 2; i++)
	{
		Node *column = list_nth(op->args, i);
		Node *other = list_nth(op->args, 1 - i);

		while (IsA(column, RelabelType))
			column = (Node *) ((RelabelType *) column)->arg;
		if (IsA(column, Var) && ((Var *) column)->varno == rti &&
			((Var *) column)->varlevelsup == 0 && ((Var *) column)->varattno == attnum &&
			!bms_is_member(rti, pull_varnos(NULL, other)))
			return true;
	}
	return false;
}

static bool
index_is_fixed(Relation index, Index rti, List *clauses)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisunique || !form->indimmediate || !form->indisvalid ||
		index->rd_rel->relam != BTREE_AM_OID ||
		RelationGetIndexExpressions(index) != NIL || RelationGetIndexPredicate(index) != NIL)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		bool fixed = false;
		ListCell *lc;

		foreach(lc, clauses)
			fixed = fixed || clause_fixes_column(lfirst(lc), rti, form->indkey.values[i],
												 index->rd_opfamily[i], index->rd_indcollation[i]);
		if (!fixed)
			return false;
	}
	return true;
}

/* Can the join find more than one row of the table for a row of the other side? */
static bool
is_unique_join(Oid relid, Index rti, Node *quals)
{
	List *clauses = make_ands_implicit((Expr *) quals);
	Relation rel = table_open(relid, AccessShareLock);
	bool unique = false;
	ListCell *lc;

	/* The indexes of a table say nothing of the tables that inherit from it. */
	if (rel->rd_rel->relkind == RELKIND_RELATION && has_subclass(relid))
		clauses = NIL;
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		unique = unique || index_is_fixed(index, rti, clauses);
		index_close(index, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
	return unique;
}

static void
refuse_multiple(KappaQuery *kq, Node *item)
{
	RangeTblEntry *rte;
	int location;

	while (IsA(item, JoinExpr))
		item = ((JoinExpr *) item)->rarg;
	rte = rt_fetch(((RangeTblRef *) item)->rtindex, kq->query->rtable);
	if (rte->rtekind == RTE_FUNCTION)
		location = exprLocation(linitial_node(RangeTblFunction, rte->functions)->funcexpr);
	else if (rte->rtekind == RTE_SUBQUERY)
		location = exprLocation((Node *) rte->subquery->targetList);
	else
		location = kappa_refuse_locate(kq->pstate, rte);
	kappa_refuse(kq->pstate, location,
				 psprintf("a row of changelog \"%s\" may be joined with more than one row",
						  get_rel_name(kq->scan->source)),
				 "Join a table on all columns of a primary key or unique constraint, as in: FROM topic [LEFT] JOIN table ON table.key = expression.  Or use a subquery as an expression.");
}

/*
 * The topic, or joins with the topic at the very left.  The joins may be inner
 * ones: view_delta.c knows how to tell a row that is gone from one that never
 * had a match.
 */
static void
check_single_row(KappaQuery *kq, Node *item)
{
	JoinExpr *join = (JoinExpr *) item;
	RangeTblEntry *rte;
	Index rti;

	if (IsA(item, RangeTblRef))
	{
		if (((RangeTblRef *) item)->rtindex != kq->scan->source_rti)
			refuse_multiple(kq, item);
		return;
	}
	check_single_row(kq, join->larg);
	if (!IsA(join->rarg, RangeTblRef))
		refuse_multiple(kq, join->rarg);
	rti = ((RangeTblRef *) join->rarg)->rtindex;
	rte = rt_fetch(rti, kq->query->rtable);
	if ((join->jointype != JOIN_INNER && join->jointype != JOIN_LEFT) ||
		rte->rtekind != RTE_RELATION || get_rel_relkind(rte->relid) == RELKIND_VIEW ||
		!is_unique_join(rte->relid, rti, join->quals))
		refuse_multiple(kq, join->rarg);
}

void
kappa_query_check_from(KappaQuery *kq)
{
	List *items = kq->query->jointree->fromlist;
	ListCell *lc;

	foreach(lc, items)
		check_from_item(kq, lfirst(lc), false);
	if (OidIsValid(kq->scan->source))
	{
		kq->table = kappa_options_get_table(kq->scan->source);
		kq->scan->changelog = kq->table->changelog;
	}
	foreach(lc, items)
		check_other_item(kq, lfirst(lc));
	if (!kq->scan->changelog)
		return;
	foreach(lc, items)
	{
		if (foreach_current_index(lc) > 0)
			refuse_multiple(kq, lfirst(lc));
		check_single_row(kq, lfirst(lc));
	}
}

bool
kappa_query_multiplies(const Query *query)
{
	List *items = query->jointree->fromlist;

	return list_length(items) > 1 || !IsA(linitial(items), RangeTblRef);
}
