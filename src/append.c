/*-------------------------------------------------------------------------
 *
 * append.c
 *	  Insert rows into a table, many at a time
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
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "append.h"
#include "compat.h"
#include "guard.h"

/* Rows are written when there is so much of them, if they are not many. */
#define MAX_BYTES (64 * 1024)

struct KappaAppend
{
	MemoryContext context;
	Relation rel;
	EState *estate;
	ResultRelInfo *result;
	BulkInsertState bulk;
	AttrMap *map; /* NULL: the rows' columns are those of the table, one by one */
	CommandId command;
	TupleTableSlot *slots[KAPPA_APPEND_MAX_ROWS]; /* made when first needed */
	int nslots;                                   /* those that hold rows */
	Size bytes;
};

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

/* ---- opening and closing ---- */

static AttrNumber
find_column(TupleDesc rows, Form_pg_attribute column)
{
	for (int i = 0; i < rows->natts; i++)
	{
		Form_pg_attribute candidate = TupleDescAttr(rows, i);

		if (strcmp(NameStr(candidate->attname), NameStr(column->attname)) == 0 &&
			getBaseType(candidate->atttypid) == getBaseType(column->atttypid))
			return i + 1;
	}
	elog(ERROR, "column \"%s\" of the table is not one of the query", NameStr(column->attname));
	return InvalidAttrNumber;
}

/* Whether the columns of rows are those of a table, one by one. */
static bool
same_columns(TupleDesc rows, TupleDesc table)
{
	bool same = rows->natts == table->natts;

	for (int i = 0; i < table->natts && same; i++)
		same = !TupleDescAttr(table, i)->attisdropped &&
			   TupleDescAttr(rows, i)->atttypid == TupleDescAttr(table, i)->atttypid &&
			   strcmp(NameStr(TupleDescAttr(rows, i)->attname),
					  NameStr(TupleDescAttr(table, i)->attname)) == 0;
	return same;
}

/* Which column of the rows goes into each column of a table, which may have lost some. */
static AttrMap *
map_columns(TupleDesc rows, TupleDesc table)
{
	AttrMap *map = make_attrmap(table->natts);

	for (int i = 0; i < table->natts; i++)
		if (!TupleDescAttr(table, i)->attisdropped)
			map->attnums[i] = find_column(rows, TupleDescAttr(table, i));
	return map;
}

KappaAppend *
kappa_append_open(Oid relid, TupleDesc rows, bool indexed)
{
	KappaAppend *append = palloc0(sizeof(KappaAppend));
	TupleDesc columns;

	append->context = CurrentMemoryContext;

	/* A table in which a replay collects is locked by nobody else. */
	append->rel = table_open(relid, RowExclusiveLock);
	columns = RelationGetDescr(append->rel);
	append->map = same_columns(rows, columns) ? NULL : map_columns(rows, columns);

	append->estate = CreateExecutorState();
	append->result = makeNode(ResultRelInfo);
	InitResultRelInfo(append->result, append->rel, 0, NULL, 0);
	if (indexed)
		ExecOpenIndices(append->result, false);
	append->bulk = GetBulkInsertState();
	append->command = GetCurrentCommandId(true);
	return append;
}

void
kappa_append_close(KappaAppend *append)
{
	kappa_append_write(append);
	kappa_append_clear(append);
	for (int i = 0; i < KAPPA_APPEND_MAX_ROWS && append->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(append->slots[i]);
	FreeBulkInsertState(append->bulk);
	table_finish_bulk_insert(append->rel, 0);
	ExecCloseIndices(append->result);
	FreeExecutorState(append->estate);
	table_close(append->rel, NoLock);
	pfree(append);
}

/* ---- rows ---- */

void
kappa_append_write(KappaAppend *append)
{
	MemoryContext old;

	if (append->nslots == 0)
		return;

	/* It leaves memory behind. */
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(append->estate));
	table_multi_insert(append->rel, append->slots, append->nslots,
					   append->command, 0, append->bulk);
	MemoryContextSwitchTo(old);

	for (int i = 0; i < append->nslots && append->result->ri_NumIndices > 0; i++)
		kappa_insert_index_tuples(append->result, append->slots[i], append->estate);
	ResetPerTupleExprContext(append->estate);
}

void
kappa_append_clear(KappaAppend *append)
{
	for (int i = 0; i < append->nslots; i++)
		ExecClearTuple(append->slots[i]);
	append->nslots = 0;
	append->bytes = 0;
}

TupleTableSlot *
kappa_append_add(KappaAppend *append, TupleTableSlot *row)
{
	TupleTableSlot *slot = append->slots[append->nslots];
	HeapTuple tuple;
	bool owned;

	if (slot == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(append->context);

		slot = table_slot_create(append->rel, NULL);
		append->slots[append->nslots] = slot;
		MemoryContextSwitchTo(old);
	}
	if (append->map == NULL)
		ExecCopySlot(slot, row);
	else
	{
		execute_attr_map_slot(append->map, row, slot);
		ExecMaterializeSlot(slot);
	}
	slot->tts_tableOid = RelationGetRelid(append->rel);
	if (append->rel->rd_att->constr != NULL)
		ExecConstraints(append->result, slot, append->estate);

	tuple = ExecFetchSlotHeapTuple(slot, false, &owned);
	append->bytes += tuple->t_len;
	append->nslots++;
	return slot;
}

bool
kappa_append_is_full(const KappaAppend *append)
{
	return append->nslots == KAPPA_APPEND_MAX_ROWS || append->bytes >= MAX_BYTES;
}

/* ---- as the receiver of a query ---- */

typedef struct AppendReceiver
{
	DestReceiver pub;
	Oid relid;
	KappaAppend *append; /* while the query runs */
} AppendReceiver;

static bool
receive_row(TupleTableSlot *row, DestReceiver *self)
{
	KappaAppend *append = ((AppendReceiver *) self)->append;

	(void) kappa_append_add(append, row);
	if (kappa_append_is_full(append))
	{
		kappa_append_write(append);
		kappa_append_clear(append);
	}
	return true;
}

static void
start_receiver(DestReceiver *self, int operation, TupleDesc type)
{
	AppendReceiver *receiver = (AppendReceiver *) self;

	receiver->append = kappa_append_open(receiver->relid, type, true);
}

static void
finish_receiver(DestReceiver *self)
{
	kappa_append_close(((AppendReceiver *) self)->append);
}

static void
destroy_receiver(DestReceiver *self)
{
	pfree(self);
}

DestReceiver *
kappa_append_create_receiver(Oid relid)
{
	AppendReceiver *receiver = palloc0(sizeof(AppendReceiver));

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = start_receiver;
	receiver->pub.rShutdown = finish_receiver;
	receiver->pub.rDestroy = destroy_receiver;
	receiver->pub.mydest = DestNone;
	receiver->relid = relid;
	return &receiver->pub;
}
