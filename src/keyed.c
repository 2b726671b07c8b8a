/*-------------------------------------------------------------------------
 *
 * keyed.c
 *	  A table with a unique key: find rows by it, and write them
 *
 * INSERT ... ON CONFLICT is made for tables that others write, too: it looks
 * into the index with a scan of its own for each row, locks the row, which is
 * logged, and only then updates it.  The tables of a view have one writer.  So
 * one scan serves all rows of a statement, and a row is updated as it was
 * found; should somebody else have changed it after all, that is an error.
 *
 * Nor are pages pruned as often.  A heap does that whenever it reads a page that
 * is fuller than fillfactor asks: where rows far apart are updated, once for
 * each row, which looks at all rows of the page and costs as much as the update.
 * Here a page is pruned when it is so full that versions would have to leave it.
 *
 * IDENTIFICATION
 *	  src/keyed.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "executor/executor.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "guard.h"
#include "keyed.h"

/* ---- which tables ---- */

static bool
has_trigger(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (strcmp(triggers->triggers[i].tgname, KAPPA_GUARD_TRIGGER) != 0)
			return true;
	return false;
}

bool
kappa_keyed_is_possible(Oid relid)
{
	Relation rel = try_table_open(relid, AccessShareLock);
	TupleConstr *constraints;
	bool possible;

	if (rel == NULL)
		return false;
	constraints = rel->rd_att->constr;
	possible = rel->rd_rel->relkind == RELKIND_RELATION &&
			   rel->rd_tableam == GetHeapamTableAmRoutine() &&
			   !rel->rd_rel->relispartition && rel->rd_rules == NULL && !has_trigger(rel) &&
			   (constraints == NULL || !constraints->has_generated_stored) &&
			   check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
	table_close(rel, NoLock);
	return possible;
}

/* ---- the key's index ---- */

/* Does an index compare a column by the default of its type, and by its collation? */
static bool
is_plain(Relation rel, Relation index, int keyno)
{
	AttrNumber attnum = index->rd_index->indkey.values[keyno];
	Form_pg_attribute column;

	if (attnum == InvalidAttrNumber)
		return false;
	column = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	return index->rd_indcollation[keyno] == column->attcollation &&
		   index->rd_opfamily[keyno] ==
			   lookup_type_cache(column->atttypid, TYPECACHE_BTREE_OPFAMILY)->btree_opf;
}

bool
kappa_keyed_is_key_index(Relation rel, Relation index, const Bitmapset *key)
{
	Form_pg_index form = index->rd_index;
	Bitmapset *columns = NULL;

	if (!form->indisunique || !form->indisvalid || !form->indimmediate ||
		RelationGetIndexPredicate(index) != NIL ||
		!(form->indnullsnotdistinct || form->indisprimary))
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		if (!is_plain(rel, index, i))
			return false;
		columns = bms_add_member(columns, form->indkey.values[i]);
	}
	return bms_equal(columns, key);
}

static Relation
get_key_index(const ResultRelInfo *result, const Bitmapset *key)
{
	for (int i = 0; i < result->ri_NumIndices; i++)
		if (kappa_keyed_is_key_index(result->ri_RelationDesc,
									 result->ri_IndexRelationDescs[i], key))
			return result->ri_IndexRelationDescs[i];
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" has lost its key",
					RelationGetRelationName(result->ri_RelationDesc)),
			 errhint("Build the view anew with kappa.rebuild().")));
	return NULL;
}

/* "Column = ?" for each column of the index. */
static void
make_conditions(KappaKeyed *table, Relation index)
{
	table->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < table->nkeys; i++)
	{
		Oid type = index->rd_opcintype[i];
		Oid equality = get_opfamily_member(index->rd_opfamily[i], type, type,
										   BTEqualStrategyNumber);

		if (!OidIsValid(equality))
			elog(ERROR, "no equality in operator family %u", index->rd_opfamily[i]);
		ScanKeyEntryInitialize(&table->equal[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i], get_opcode(equality), (Datum) 0);
	}
}

/* ---- opening and closing ---- */

/* What a heap leaves free in a page before it prunes one without a fillfactor. */
#define LEAST_ROOM (BLCKSZ / 10)

KappaKeyed *
kappa_keyed_open(Oid relid, const Bitmapset *key)
{
	KappaKeyed *table = palloc0(sizeof(KappaKeyed));
	Relation index;

	table->rel = table_open(relid, NoLock);
	table->row = table_slot_create(table->rel, NULL);
	table->found = table_slot_create(table->rel, NULL);
	table->estate = CreateExecutorState();
	table->result = makeNode(ResultRelInfo);
	InitResultRelInfo(table->result, table->rel, 0, NULL, 0);
	ExecOpenIndices(table->result, false);
	table->snapshot = GetActiveSnapshot();
	table->command = GetCurrentCommandId(true);
	table->nblocks = RelationGetNumberOfBlocks(table->rel);
	table->buffer = InvalidBuffer;
	table->room = LEAST_ROOM;

	index = get_key_index(table->result, key);
	make_conditions(table, index);
	table->scan = kappa_index_beginscan(table->rel, index, table->snapshot, table->nkeys);
	return table;
}

void
kappa_keyed_close(KappaKeyed *table)
{
	index_endscan(table->scan);
	ExecDropSingleTupleTableSlot(table->row);
	ExecDropSingleTupleTableSlot(table->found);
	if (BufferIsValid(table->buffer))
		ReleaseBuffer(table->buffer);
	ExecCloseIndices(table->result);
	FreeExecutorState(table->estate);
	table_close(table->rel, NoLock);
	pfree(table);
}

void
kappa_keyed_begin_row(KappaKeyed *table)
{
	ExecClearTuple(table->row);
	ResetPerTupleExprContext(table->estate);
}

void
kappa_keyed_end_row(KappaKeyed *table)
{
	ExecStoreVirtualTuple(table->row);
	table->row->tts_tableOid = RelationGetRelid(table->rel);
}

/* ---- finding ---- */

/*
 * Read the page of a row, and prune it if the next version may not fit.  That is
 * looked at again before each update: others may have filled the page.
 */
static void
read_page(KappaKeyed *table, BlockNumber block)
{
	table->buffer = ReleaseAndReadBuffer(table->buffer, table->rel, block);
	if (PageGetHeapFreeSpace(BufferGetPage(table->buffer)) < table->room)
		heap_page_prune_opt(table->rel, table->buffer);
}

/*
 * Fetch the version of the row at tid that the snapshot sees.  all_dead is set
 * to whether nobody sees one any more.
 */
static bool
fetch_version(KappaKeyed *table, const ItemPointerData *tid, bool *all_dead)
{
	HeapTuple tuple = &((BufferHeapTupleTableSlot *) table->found)->base.tupdata;
	ItemPointerData version = *tid;
	bool found;

	read_page(table, ItemPointerGetBlockNumber(tid));
	LockBuffer(table->buffer, BUFFER_LOCK_SHARE);
	found = heap_hot_search_buffer(&version, table->rel, table->buffer, table->snapshot, tuple,
								   all_dead, true);
	LockBuffer(table->buffer, BUFFER_LOCK_UNLOCK);
	if (!found)
		return false;
	table->found->tts_tableOid = RelationGetRelid(table->rel);
	ExecStoreBufferHeapTuple(tuple, table->found, table->buffer);
	table->room = Max(table->room, MAXALIGN(tuple->t_len) + sizeof(ItemIdData));
	return true;
}

static AttrNumber
get_column(const KappaKeyed *table, int keyno)
{
	return table->scan->indexRelation->rd_index->indkey.values[keyno];
}

static bool
has_same_key(KappaKeyed *table)
{
	for (int i = 0; i < table->nkeys; i++)
	{
		int column = get_column(table, i) - 1;
		ScanKey equal = &table->equal[i];
		bool isnull;
		Datum value = slot_getattr(table->found, column + 1, &isnull);

		if (isnull != table->row->tts_isnull[column])
			return false;
		if (!isnull && !DatumGetBool(FunctionCall2Coll(&equal->sk_func, equal->sk_collation, value,
													   table->row->tts_values[column])))
			return false;
	}
	return true;
}

/* The key is unique, so a row that has it, wherever it was found, is the one. */
static bool
find_at(KappaKeyed *table, ItemPointer place)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(place);

	if (!ItemPointerIsValid(place))
		return false;
	if (block >= table->nblocks)
	{
		table->nblocks = RelationGetNumberOfBlocks(table->rel);
		if (block >= table->nblocks)
			return false;
	}
	return fetch_version(table, place, NULL) && has_same_key(table);
}

bool
kappa_keyed_find(KappaKeyed *table, ItemPointer place)
{
	ScanKeyData conditions[INDEX_MAX_KEYS];
	ItemPointer tid;

	ExecClearTuple(table->found);
	if (find_at(table, place))
		return true;

	memcpy(conditions, table->equal, table->nkeys * sizeof(ScanKeyData));
	for (int i = 0; i < table->nkeys; i++)
	{
		int column = get_column(table, i) - 1;

		if (table->row->tts_isnull[column])
			ScanKeyEntryInitialize(&conditions[i], SK_ISNULL | SK_SEARCHNULL, i + 1,
								   InvalidStrategy, InvalidOid, InvalidOid, InvalidOid, (Datum) 0);
		else
			conditions[i].sk_argument = table->row->tts_values[column];
	}
	index_rescan(table->scan, conditions, table->nkeys, NULL, 0);
	while ((tid = index_getnext_tid(table->scan, ForwardScanDirection)) != NULL)
	{
		*place = *tid;
		if (fetch_version(table, tid, &table->scan->kill_prior_tuple))
		{
			pgstat_count_heap_fetch(table->scan->indexRelation);
			return true;
		}
	}
	ItemPointerSetInvalid(place);
	return false;
}

/* ---- writing ---- */

/* Subscribers must be able to tell which row it is: asked once for each kind of command. */
static void
check_identity(KappaKeyed *table, CmdType command)
{
	if (table->identified & (1 << command))
		return;
	CheckCmdReplicaIdentity(table->rel, command);
	table->identified |= 1 << command;
}

static void
check_constraints(KappaKeyed *table)
{
	if (table->rel->rd_att->constr != NULL)
		ExecConstraints(table->result, table->row, table->estate);
}

static void
check_result(const KappaKeyed *table, TM_Result result)
{
	switch (result)
	{
		case TM_Ok:
			return;
		case TM_Updated:
		case TM_Deleted:
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("somebody else has changed a row of table \"%s\"",
							RelationGetRelationName(table->rel))));
			break;
		default:
			elog(ERROR, "could not write a row of table \"%s\": %d",
				 RelationGetRelationName(table->rel), result);
	}
}

void
kappa_keyed_insert(KappaKeyed *table, ItemPointer place)
{
	check_constraints(table);
	table_tuple_insert(table->rel, table->row, table->command, 0, NULL);
	kappa_insert_index_tuples(table->result, table->row, table->estate);
	*place = table->row->tts_tid;
}

void
kappa_keyed_update(KappaKeyed *table, ItemPointer tid, ItemPointer place)
{
	TM_FailureData failure;
	LockTupleMode lockmode;
	kappa_update_indexes which;

	check_identity(table, CMD_UPDATE);
	check_constraints(table);
	read_page(table, ItemPointerGetBlockNumber(tid));
	check_result(table, table_tuple_update(table->rel, tid, table->row, table->command,
										   table->snapshot, InvalidSnapshot, true, &failure,
										   &lockmode, &which));
	if (kappa_update_index_tuples(table->result, table->row, table->estate, which))
		*place = table->row->tts_tid;
}

void
kappa_keyed_delete(KappaKeyed *table, ItemPointer tid)
{
	TM_FailureData failure;

	check_identity(table, CMD_DELETE);
	check_result(table, table_tuple_delete(table->rel, tid, table->command, table->snapshot,
										   InvalidSnapshot, true, &failure, false));
}
