/*-------------------------------------------------------------------------
 *
 * swap_index.c
 *	  Give a table the indexes that another one has
 *
 * Before the storage of two tables can be exchanged, each index of the one
 * needs a counterpart on the other that was built by the same definition.  The
 * counterpart of a view's own key is there from the beginning; what users
 * created since is cloned here, as CREATE TABLE (LIKE ... INCLUDING INDEXES)
 * would do it.
 *
 * IDENTIFICATION
 *	  src/swap_index.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/attmap.h"
#include "access/genam.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_utilcmd.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "swap_index.h"

/* ---- same definition? ---- */

static Oid
get_opclass(Relation index, int column)
{
	bool isnull;
	Datum opclasses = SysCacheGetAttr(INDEXRELID, index->rd_indextuple,
									  Anum_pg_index_indclass, &isnull);

	Assert(!isnull);
	return ((oidvector *) DatumGetPointer(opclasses))->values[column];
}

static bool
same_opclass_options(Relation a, Relation b, AttrNumber attnum)
{
	Datum first = get_attoptions(RelationGetRelid(a), attnum);
	Datum second = get_attoptions(RelationGetRelid(b), attnum);

	if (first == (Datum) 0 || second == (Datum) 0)
		return first == second;
	return datumIsEqual(first, second, false, -1);
}

static bool
same_key_columns(Relation a, Relation b)
{
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(a); i++)
	{
		if (a->rd_indcollation[i] != b->rd_indcollation[i] ||
			a->rd_indoption[i] != b->rd_indoption[i] ||
			get_opclass(a, i) != get_opclass(b, i) ||
			!same_opclass_options(a, b, i + 1))
			return false;
	}
	return true;
}

static bool
same_exclusion_operators(Relation a, Relation b)
{
	Oid *operators[2];
	Oid *functions;
	uint16 *strategies;

	if (!a->rd_index->indisexclusion)
		return true;
	RelationGetExclusionInfo(a, &operators[0], &functions, &strategies);
	RelationGetExclusionInfo(b, &operators[1], &functions, &strategies);
	return memcmp(operators[0], operators[1],
				  IndexRelationGetNumberOfKeyAttributes(a) * sizeof(Oid)) == 0;
}

static bool
same_index(Relation a, Relation b)
{
	Form_pg_index first = a->rd_index;
	Form_pg_index second = b->rd_index;

	if (a->rd_rel->relam != b->rd_rel->relam ||
		first->indnatts != second->indnatts ||
		first->indnkeyatts != second->indnkeyatts ||
		first->indisunique != second->indisunique ||
		first->indnullsnotdistinct != second->indnullsnotdistinct ||
		first->indimmediate != second->indimmediate ||
		first->indisexclusion != second->indisexclusion)
		return false;

	return memcmp(first->indkey.values, second->indkey.values,
				  first->indnatts * sizeof(int16)) == 0 &&
		   same_key_columns(a, b) &&
		   same_exclusion_operators(a, b) &&
		   equal(RelationGetIndexExpressions(a), RelationGetIndexExpressions(b)) &&
		   equal(RelationGetIndexPredicate(a), RelationGetIndexPredicate(b));
}

/* ---- pairs ---- */

/* The first index of a list that equals another table's; InvalidOid if none does. */
static Oid
find_same_index(Oid indexid, List *candidates)
{
	Relation index = index_open(indexid, AccessShareLock);
	Oid result = InvalidOid;
	ListCell *lc;

	foreach(lc, candidates)
	{
		Relation candidate = index_open(lfirst_oid(lc), AccessShareLock);

		if (same_index(index, candidate))
			result = lfirst_oid(lc);
		index_close(candidate, AccessShareLock);
		if (OidIsValid(result))
			break;
	}
	index_close(index, AccessShareLock);
	return result;
}

/* The columns that an index uses, as pull_varattnos() numbers them. */
static Bitmapset *
get_used_columns(Oid indexid)
{
	Relation index = index_open(indexid, AccessShareLock);
	Bitmapset *used = NULL;

	for (int i = 0; i < index->rd_index->indnatts; i++)
	{
		AttrNumber attnum = index->rd_index->indkey.values[i];

		if (attnum > 0)
			used = bms_add_member(used, attnum - FirstLowInvalidHeapAttributeNumber);
	}
	pull_varattnos((Node *) RelationGetIndexExpressions(index), 1, &used);
	pull_varattnos((Node *) RelationGetIndexPredicate(index), 1, &used);
	index_close(index, AccessShareLock);
	return used;
}

bool
kappa_swap_has_row_index(Oid target)
{
	Relation rel = table_open(target, AccessShareLock);
	bool found = false;
	ListCell *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		if (bms_is_member(InvalidAttrNumber - FirstLowInvalidHeapAttributeNumber,
						  get_used_columns(lfirst_oid(lc))))
			found = true;
	}
	table_close(rel, AccessShareLock);
	return found;
}

/* Does an index use a column that another table, of otherwise the same columns, has lost? */
static bool
uses_lost_column(Oid indexid, TupleDesc columns)
{
	Bitmapset *used = get_used_columns(indexid);
	int member = -1;
	bool lost = false;

	while ((member = bms_next_member(used, member)) >= 0)
	{
		AttrNumber attnum = member + FirstLowInvalidHeapAttributeNumber;

		if (attnum > 0 && attnum <= columns->natts &&
			TupleDescAttr(columns, attnum - 1)->attisdropped)
			lost = true;
	}
	return lost;
}

KappaIndexMatch *
kappa_swap_match_indexes(Relation target, Relation shadow)
{
	KappaIndexMatch *match = palloc0(sizeof(KappaIndexMatch));
	List *indexes = RelationGetIndexList(target);
	ListCell *lc;

	match->only_shadow = RelationGetIndexList(shadow);
	foreach(lc, indexes)
	{
		Oid same;

		/* It goes away with the column, before the switch. */
		if (uses_lost_column(lfirst_oid(lc), RelationGetDescr(shadow)))
			continue;
		same = find_same_index(lfirst_oid(lc), match->only_shadow);
		if (!OidIsValid(same))
		{
			match->only_target = lappend_oid(match->only_target, lfirst_oid(lc));
			continue;
		}
		match->target = lappend_oid(match->target, lfirst_oid(lc));
		match->shadow = lappend_oid(match->shadow, same);
		match->only_shadow = list_delete_oid(match->only_shadow, same);
	}
	return match;
}

bool
kappa_swap_indexes_equal(Oid target, Oid shadow)
{
	Relation target_rel = table_open(target, AccessShareLock);
	Relation shadow_rel = table_open(shadow, AccessShareLock);
	KappaIndexMatch *match = kappa_swap_match_indexes(target_rel, shadow_rel);

	table_close(shadow_rel, AccessShareLock);
	table_close(target_rel, AccessShareLock);
	return match->only_target == NIL && match->only_shadow == NIL;
}

/* ---- building ---- */

/*
 * A statement that makes the same index on another table with the same
 * columns.  Throws 0A000 for an index on the whole row: the tables' row types
 * differ.
 */
static IndexStmt *
clone_index(Oid indexid, Relation shadow)
{
	int natts = RelationGetNumberOfAttributes(shadow);
	AttrMap *identity = make_attrmap(natts);
	Relation index = index_open(indexid, AccessShareLock);
	RangeVar *name = makeRangeVar(get_namespace_name(RelationGetNamespace(shadow)),
								  pstrdup(RelationGetRelationName(shadow)), -1);
	IndexStmt *stmt;

	for (int i = 0; i < natts; i++)
		identity->attnums[i] = i + 1;
	stmt = generateClonedIndexStmt(name, index, identity, NULL);
	stmt->idxcomment = NULL;
	index_close(index, AccessShareLock);
	return stmt;
}

/* Statements for what the shadow lacks; *extra: what it should not have. */
static List *
plan_indexes(Oid target, Relation shadow, List **extra)
{
	Relation rel = table_open(target, AccessShareLock);
	KappaIndexMatch *match = kappa_swap_match_indexes(rel, shadow);
	List *statements = NIL;
	ListCell *lc;

	foreach(lc, match->only_target)
		statements = lappend(statements, clone_index(lfirst_oid(lc), shadow));
	table_close(rel, AccessShareLock);
	*extra = match->only_shadow;
	return statements;
}

static void
drop_index(Oid indexid)
{
	Oid constraint = get_index_constraint(indexid);
	ObjectAddress object;

	if (OidIsValid(constraint))
		ObjectAddressSet(object, ConstraintRelationId, constraint);
	else
		ObjectAddressSet(object, RelationRelationId, indexid);
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
}

void
kappa_swap_build_indexes(Oid target, Oid shadow)
{
	Relation rel = table_open(shadow, ShareLock);
	List *extra;
	List *statements = plan_indexes(target, rel, &extra);
	Oid owner = rel->rd_rel->relowner;
	Oid userid;
	int sec_context;
	int guc_level;
	ListCell *lc;

	table_close(rel, NoLock);

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();

	foreach(lc, extra)
		drop_index(lfirst_oid(lc));

	/*
	 * Rights are not checked: the owner may not create anything in the
	 * shadow's schema by himself, and he was allowed to create these indexes
	 * on the target.
	 */
	foreach(lc, statements)
	{
		kappa_define_index(shadow, lfirst_node(IndexStmt, lc), false);
		CommandCounterIncrement();
	}

	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(userid, sec_context);
}
