/*-------------------------------------------------------------------------
 *
 * append.c
 *	  Insert the rows of a query into a table, many at a time
 *
 * This is what INSERT ... SELECT does, for tables about which there is nothing
 * special, without its costs for each row: a page is locked, and a WAL record
 * written, once for many rows.
 *
 * IDENTIFICATION
 *	  src/append.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/attmap.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "append.h"
#include "compat.h"
#include "guard.h"

/* Rows are written when there are so many of them, or so much. */
#define MAX_ROWS 1000
#define MAX_BYTES (64 * 1024)

typedef struct AppendReceiver
{
	DestReceiver pub;
	Oid target;

	/* While the query runs. */
	MemoryContext context;
	Relation rel;
	EState *estate;
	ResultRelInfo *result;
	BulkInsertState bulk;
	AttrMap *map; /* NULL: the query's columns are those of the table, one by one */
	CommandId command;
	TupleTableSlot *slots[MAX_ROWS]; /* made when first needed */
	int nslots;                      /* those that hold rows */
	Size bytes;
} AppendReceiver;

/* ---- which tables ---- */

static bool
has_insert_trigger(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger *trigger = &triggers->triggers[i];

		if (TRIGGER_FOR_INSERT(trigger->tgtype) &&
			strcmp(trigger->tgname, KAPPA_GUARD_TRIGGER) != 0)
			return true;
	}
	return false;
}

bool
kappa_append_is_possible(Oid target)
{
	Relation rel = table_open(target, AccessShareLock);
	TupleConstr *constraints = rel->rd_att->constr;
	bool possible = rel->rd_rel->relkind == RELKIND_RELATION &&
					rel->rd_rules == NULL && !has_insert_trigger(rel) &&
					(constraints == NULL || !constraints->has_generated_stored) &&
					check_enable_rls(target, InvalidOid, true) != RLS_ENABLED;

	table_close(rel, NoLock);
	return possible;
}

/* ---- rows ---- */

static void
flush_rows(AppendReceiver *receiver)
{
	EState *estate = receiver->estate;
	MemoryContext old;

	if (receiver->nslots == 0)
		return;

	/* It leaves memory behind. */
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	table_multi_insert(receiver->rel, receiver->slots, receiver->nslots,
					   receiver->command, 0, receiver->bulk);
	MemoryContextSwitchTo(old);

	for (int i = 0; i < receiver->nslots; i++)
	{
		if (receiver->result->ri_NumIndices > 0)
			kappa_insert_index_tuples(receiver->result, receiver->slots[i], estate);
		ExecClearTuple(receiver->slots[i]);
	}
	ResetPerTupleExprContext(estate);
	receiver->nslots = 0;
	receiver->bytes = 0;
}

static bool
receive_row(TupleTableSlot *row, DestReceiver *self)
{
	AppendReceiver *receiver = (AppendReceiver *) self;
	TupleTableSlot *slot = receiver->slots[receiver->nslots];
	HeapTuple tuple;
	bool owned;

	if (slot == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(receiver->context);

		slot = table_slot_create(receiver->rel, NULL);
		receiver->slots[receiver->nslots] = slot;
		MemoryContextSwitchTo(old);
	}
	if (receiver->map == NULL)
		ExecCopySlot(slot, row);
	else
	{
		execute_attr_map_slot(receiver->map, row, slot);
		ExecMaterializeSlot(slot);
	}
	slot->tts_tableOid = RelationGetRelid(receiver->rel);
	if (receiver->rel->rd_att->constr != NULL)
		ExecConstraints(receiver->result, slot, receiver->estate);

	tuple = ExecFetchSlotHeapTuple(slot, false, &owned);
	receiver->bytes += tuple->t_len;
	receiver->nslots++;
	if (receiver->nslots == MAX_ROWS || receiver->bytes >= MAX_BYTES)
		flush_rows(receiver);
	return true;
}

static AttrNumber
find_column(TupleDesc query, Form_pg_attribute column)
{
	for (int i = 0; i < query->natts; i++)
	{
		Form_pg_attribute candidate = TupleDescAttr(query, i);

		if (strcmp(NameStr(candidate->attname), NameStr(column->attname)) == 0 &&
			candidate->atttypid == column->atttypid)
			return i + 1;
	}
	elog(ERROR, "column \"%s\" of the table is not one of the query", NameStr(column->attname));
	return InvalidAttrNumber;
}

/*
 * Which column of a query goes into each column of a table.  NULL if they are
 * the same, one by one: so they were made, but a table may have lost columns,
 * and then got others behind.
 */
static AttrMap *
map_columns(TupleDesc query, TupleDesc table)
{
	AttrMap *map = make_attrmap(table->natts);
	bool same = true;
	int n = 0;

	for (int i = 0; i < table->natts; i++)
		same = same && !TupleDescAttr(table, i)->attisdropped;
	for (int i = 0; i < table->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(table, i);

		if (column->attisdropped)
			continue;
		if (!same)
			map->attnums[i] = find_column(query, column);
		else if (i < query->natts && TupleDescAttr(query, i)->atttypid != column->atttypid)
			elog(ERROR, "column %d of the query has type %u, of the table %u", i + 1,
				 TupleDescAttr(query, i)->atttypid, column->atttypid);
		n++;
	}
	if (n != query->natts)
		elog(ERROR, "a query of %d columns cannot be inserted into a table of %d",
			 query->natts, n);
	return same ? NULL : map;
}

static void
start_receiver(DestReceiver *self, int operation, TupleDesc type)
{
	AppendReceiver *receiver = (AppendReceiver *) self;
	TupleDesc columns;

	receiver->context = CurrentMemoryContext;

	/* A table in which a replay collects is locked by nobody else. */
	receiver->rel = table_open(receiver->target, RowExclusiveLock);
	columns = RelationGetDescr(receiver->rel);
	receiver->map = map_columns(type, columns);

	receiver->estate = CreateExecutorState();
	receiver->result = makeNode(ResultRelInfo);
	InitResultRelInfo(receiver->result, receiver->rel, 0, NULL, 0);
	ExecOpenIndices(receiver->result, false);
	receiver->bulk = GetBulkInsertState();
	receiver->command = GetCurrentCommandId(true);
	receiver->nslots = 0;
	receiver->bytes = 0;
	memset(receiver->slots, 0, sizeof(receiver->slots));
}

static void
finish_receiver(DestReceiver *self)
{
	AppendReceiver *receiver = (AppendReceiver *) self;

	flush_rows(receiver);
	for (int i = 0; i < MAX_ROWS && receiver->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(receiver->slots[i]);
	FreeBulkInsertState(receiver->bulk);
	table_finish_bulk_insert(receiver->rel, 0);
	ExecCloseIndices(receiver->result);
	FreeExecutorState(receiver->estate);
	table_close(receiver->rel, NoLock);
}

static void
destroy_receiver(DestReceiver *self)
{
	pfree(self);
}

DestReceiver *
kappa_append_create_receiver(Oid target)
{
	AppendReceiver *receiver = palloc0(sizeof(AppendReceiver));

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = start_receiver;
	receiver->pub.rShutdown = finish_receiver;
	receiver->pub.rDestroy = destroy_receiver;
	receiver->pub.mydest = DestNone;
	receiver->target = target;
	return &receiver->pub;
}
