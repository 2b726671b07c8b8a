/*-------------------------------------------------------------------------
 *
 * fdw_changelog.c
 *	  The latest message of each key
 *
 * All messages are sorted by key, the latest of each key first.  Only the key
 * columns are decoded for that; the rest of a message travels through the sort
 * as it is, to be decoded when it turns out to be the one that counts.  What
 * does not fit into work_mem goes to disk.
 *
 * No condition of the query may be applied before, except on the key itself:
 * else a message that moves a row out of the result would be passed over, and
 * an older one taken for the latest.
 *
 * IDENTIFICATION
 *	  src/fdw_changelog.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "compat.h"
#include "executor/executor.h"
#include "fdw_changelog.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

/* Columns of the sort after the key columns. */
enum
{
	SORT_PARTITION,
	SORT_OFFSET,
	SORT_TIMESTAMP,
	SORT_TIMESTAMP_TYPE,
	SORT_KEY,
	SORT_VALUE,
	SORT_HEADERS,
	SORT_NCOLUMNS,
};

typedef struct ChangelogKey
{
	AttrNumber attnum; /* of the foreign table */
	int cell;
	Oid less_operator;
	Oid equal_operator;
	Oid collation;
} ChangelogKey;

struct KappaChangelog
{
	const KappaTable *table;
	KappaDecoder *decoder;
	ScanState *node;
	ExprState *key_filter; /* NULL if there are no key clauses */
	bool rewind;
	bool tombstones;

	int nkeys;
	ChangelogKey *keys;
	TupleDesc desc; /* of the sort: key columns, then SORT_... */

	Tuplesortstate *sort;       /* NULL unless loaded */
	MemoryContext load_context; /* reset for each message */
	TupleTableSlot *input;
	TupleTableSlot *output;
	TupleTableSlot *latest; /* the last one returned */
	ExprState *same_key;    /* is output of latest's key? */
	ExprContext *econtext;  /* for same_key */
	KappaMessage message;   /* latest, as a message */
	MemoryContext header_context;
};

/* ---- preparation ---- */

static void
add_key(KappaChangelog *changelog, const KappaColumn *column, Oid collation)
{
	TypeCacheEntry *type = lookup_type_cache(column->type,
											 TYPECACHE_LT_OPR | TYPECACHE_EQ_OPR);
	ChangelogKey *key = &changelog->keys[changelog->nkeys++];

	key->attnum = column->attnum;
	key->cell = kappa_decoder_cell(changelog->decoder, column->attnum);
	key->less_operator = type->lt_opr;
	key->equal_operator = type->eq_opr;
	key->collation = collation;

	/* Any order will do, as long as equal keys meet: take the cheapest. */
	if (OidIsValid(collation) && get_collation_isdeterministic(collation))
		key->collation = C_COLLATION_OID;
}

static void
init_sort_columns(KappaChangelog *changelog, TupleDesc table_desc)
{
	static const Oid types[SORT_NCOLUMNS] = {
		INT4OID, INT8OID, INT8OID, CHAROID, BYTEAOID, BYTEAOID, BYTEAOID
	};
	int nkeys = changelog->nkeys;

	changelog->desc = CreateTemplateTupleDesc(nkeys + SORT_NCOLUMNS);
	for (int i = 0; i < nkeys; i++)
		TupleDescCopyEntry(changelog->desc, i + 1, table_desc,
						   changelog->keys[i].attnum);
	for (int i = 0; i < SORT_NCOLUMNS; i++)
		TupleDescInitEntry(changelog->desc, nkeys + i + 1, NULL,
						   types[i], -1, 0);
}

static void
init_same_key(KappaChangelog *changelog)
{
	int nkeys = changelog->nkeys;
	AttrNumber *columns = palloc(nkeys * sizeof(AttrNumber));
	Oid *operators = palloc(nkeys * sizeof(Oid));
	Oid *collations = palloc(nkeys * sizeof(Oid));

	for (int i = 0; i < nkeys; i++)
	{
		columns[i] = i + 1;
		operators[i] = changelog->keys[i].equal_operator;
		collations[i] = changelog->keys[i].collation;
	}
	changelog->same_key = execTuplesMatchPrepare(changelog->desc, nkeys,
												 columns, operators,
												 collations,
												 &changelog->node->ps);
	changelog->econtext = CreateStandaloneExprContext();
}

KappaChangelog *
kappa_changelog_create(const KappaTable *table, KappaDecoder *decoder,
					   List *key_clauses, ScanState *node, bool rewind, bool tombstones)
{
	KappaChangelog *changelog = palloc0(sizeof(KappaChangelog));
	TupleDesc table_desc = RelationGetDescr(node->ss_currentRelation);

	changelog->table = table;
	changelog->decoder = decoder;
	changelog->node = node;
	changelog->rewind = rewind;
	changelog->tombstones = tombstones;
	changelog->key_filter = ExecInitQual(key_clauses, &node->ps);

	changelog->keys = palloc(table->ncolumns * sizeof(ChangelogKey));
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->columns[i].key)
			add_key(changelog, &table->columns[i],
					TupleDescAttr(table_desc, i)->attcollation);
	}
	init_sort_columns(changelog, table_desc);
	init_same_key(changelog);

	changelog->input = MakeSingleTupleTableSlot(changelog->desc, &TTSOpsVirtual);
	changelog->output = MakeSingleTupleTableSlot(changelog->desc,
												 &TTSOpsMinimalTuple);
	changelog->latest = MakeSingleTupleTableSlot(changelog->desc,
												 &TTSOpsMinimalTuple);
	changelog->load_context = AllocSetContextCreate(CurrentMemoryContext,
													"kappa changelog message",
													ALLOCSET_DEFAULT_SIZES);
	changelog->header_context = AllocSetContextCreate(CurrentMemoryContext,
													  "kappa changelog headers",
													  ALLOCSET_SMALL_SIZES);
	return changelog;
}

/* ---- sorting ---- */

/* By key, then the latest message first. */
static Tuplesortstate *
begin_sort(KappaChangelog *changelog)
{
	static const int order[] = { SORT_TIMESTAMP, SORT_PARTITION, SORT_OFFSET };
	int first = changelog->table->key_order == KAPPA_KEY_ORDER_TIMESTAMP ? 0 : 1;
	int nkeys = changelog->nkeys;
	int ncolumns = nkeys + lengthof(order) - first;
	AttrNumber *columns = palloc(ncolumns * sizeof(AttrNumber));
	Oid *operators = palloc(ncolumns * sizeof(Oid));
	Oid *collations = palloc0(ncolumns * sizeof(Oid));
	bool *nulls_first = palloc0(ncolumns * sizeof(bool));

	for (int i = 0; i < nkeys; i++)
	{
		columns[i] = i + 1;
		operators[i] = changelog->keys[i].less_operator;
		collations[i] = changelog->keys[i].collation;
	}
	for (int i = nkeys; i < ncolumns; i++)
	{
		int column = nkeys + order[first + i - nkeys];
		Oid type = TupleDescAttr(changelog->desc, column)->atttypid;

		columns[i] = column + 1;
		operators[i] = lookup_type_cache(type, TYPECACHE_GT_OPR)->gt_opr;
	}
	return tuplesort_begin_heap(changelog->desc, ncolumns, columns, operators,
								collations, nulls_first, work_mem, NULL,
								changelog->rewind ? TUPLESORT_RANDOMACCESS
												  : TUPLESORT_NONE);
}

static void
report_null_key(const KappaTable *table, const KappaMessage *message,
				AttrNumber attnum)
{
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("null value in key column \"%s\" of foreign table \"%s\"",
					table->columns[attnum - 1].name, table->name),
			 errdetail("The message is in topic \"%s\", partition %d, at offset " INT64_FORMAT ".",
					   table->topic, message->partition, message->offset)));
}

/* Decode the key columns of a message into the first columns of the sort. */
static void
decode_sort_keys(KappaChangelog *changelog, const KappaMessage *message)
{
	TupleTableSlot *slot = changelog->input;
	int ncells = kappa_decoder_ncells(changelog->decoder);
	Datum *values = palloc(ncells * sizeof(Datum));
	uint8 *states = palloc(ncells);
	KappaMalformed malformed;

	if (!kappa_decode_keys(changelog->decoder, message, values, states,
						   &malformed))
		kappa_decode_report_malformed(changelog->decoder, message, &malformed);

	for (int i = 0; i < changelog->nkeys; i++)
	{
		const ChangelogKey *key = &changelog->keys[i];

		slot->tts_values[i] = kappa_decode_cell(changelog->decoder, key->cell,
												message, values[key->cell],
												states[key->cell],
												&slot->tts_isnull[i]);
		if (slot->tts_isnull[i])
			report_null_key(changelog->table, message, key->attnum);
	}
}

/* Does a message have one of the keys that are asked for? */
static bool
is_key_wanted(KappaChangelog *changelog)
{
	TupleTableSlot *slot = changelog->node->ss_ScanTupleSlot;
	ExprContext *econtext = changelog->node->ps.ps_ExprContext;

	if (changelog->key_filter == NULL)
		return true;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true,
		   slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < changelog->nkeys; i++)
	{
		int column = changelog->keys[i].attnum - 1;

		slot->tts_values[column] = changelog->input->tts_values[i];
		slot->tts_isnull[column] = false;
	}
	ExecStoreVirtualTuple(slot);
	econtext->ecxt_scantuple = slot;
	return ExecQual(changelog->key_filter, econtext);
}

/*
 * Headers as one string of bytes: for each, name with its NUL, length of the
 * value (-1 for a null value), value.
 */
static Datum
pack_headers(const KappaMessage *message)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < message->nheaders; i++)
	{
		const KappaHeader *header = &message->headers[i];
		int32 len = header->value == NULL ? -1 : (int32) header->value_len;

		appendBinaryStringInfo(&buf, header->name, strlen(header->name) + 1);
		appendBinaryStringInfo(&buf, (char *) &len, sizeof(len));
		if (len > 0)
			appendBinaryStringInfo(&buf, header->value, len);
	}
	return kappa_decode_make_bytea(buf.data, buf.len);
}

static void
unpack_headers(KappaChangelog *changelog, Datum packed)
{
	const char *p = VARDATA_ANY(DatumGetPointer(packed));
	const char *end = p + VARSIZE_ANY_EXHDR(DatumGetPointer(packed));
	List *headers = NIL;
	KappaHeader *array;
	ListCell *lc;
	MemoryContext old;

	MemoryContextReset(changelog->header_context);
	old = MemoryContextSwitchTo(changelog->header_context);
	while (p < end)
	{
		KappaHeader *header = palloc0(sizeof(KappaHeader));
		int32 len;

		header->name = p;
		p += strlen(p) + 1;
		memcpy(&len, p, sizeof(len));
		p += sizeof(len);
		if (len >= 0)
		{
			header->value = p;
			header->value_len = len;
			p += len;
		}
		headers = lappend(headers, header);
	}

	array = palloc(Max(list_length(headers), 1) * sizeof(KappaHeader));
	foreach(lc, headers)
		array[foreach_current_index(lc)] = *(KappaHeader *) lfirst(lc);
	changelog->message.headers = array;
	changelog->message.nheaders = list_length(headers);
	MemoryContextSwitchTo(old);
}

/* The message itself, into the columns after the keys. */
static void
fill_sort_message(KappaChangelog *changelog, const KappaMessage *message)
{
	Datum *values = changelog->input->tts_values + changelog->nkeys;
	bool *nulls = changelog->input->tts_isnull + changelog->nkeys;

	memset(nulls, false, SORT_NCOLUMNS * sizeof(bool));
	values[SORT_PARTITION] = Int32GetDatum(message->partition);
	values[SORT_OFFSET] = Int64GetDatum(message->offset);
	values[SORT_TIMESTAMP] = Int64GetDatum(message->timestamp);
	values[SORT_TIMESTAMP_TYPE] = CharGetDatum(message->timestamp_type);

	nulls[SORT_KEY] = message->key == NULL;
	if (message->key != NULL)
		values[SORT_KEY] = kappa_decode_make_bytea(message->key, message->key_len);
	nulls[SORT_VALUE] = message->value == NULL;
	if (message->value != NULL)
		values[SORT_VALUE] = kappa_decode_make_bytea(message->value, message->value_len);
	nulls[SORT_HEADERS] = message->headers == NULL;
	if (message->headers != NULL)
		values[SORT_HEADERS] = pack_headers(message);
}

void
kappa_changelog_load(KappaChangelog *changelog, KappaReader *reader)
{
	const KappaMessage *message;

	kappa_changelog_clear(changelog);
	changelog->sort = begin_sort(changelog);

	while ((message = kappa_reader_next(reader)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(changelog->load_context);

		CHECK_FOR_INTERRUPTS();
		ExecClearTuple(changelog->input);
		decode_sort_keys(changelog, message);
		if (is_key_wanted(changelog))
		{
			fill_sort_message(changelog, message);
			ExecStoreVirtualTuple(changelog->input);
			tuplesort_puttupleslot(changelog->sort, changelog->input);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(changelog->load_context);
		ResetExprContext(changelog->node->ps.ps_ExprContext);
	}
	ExecClearTuple(changelog->node->ss_ScanTupleSlot);
	tuplesort_performsort(changelog->sort);
}

bool
kappa_changelog_can_rewind(const KappaChangelog *changelog)
{
	return changelog->sort != NULL && changelog->rewind;
}

void
kappa_changelog_rewind(KappaChangelog *changelog)
{
	ExecClearTuple(changelog->output);
	ExecClearTuple(changelog->latest);
	tuplesort_rescan(changelog->sort);
}

void
kappa_changelog_clear(KappaChangelog *changelog)
{
	ExecClearTuple(changelog->output);
	ExecClearTuple(changelog->latest);
	if (changelog->sort != NULL)
		tuplesort_end(changelog->sort);
	changelog->sort = NULL;
}

/* ---- the latest messages ---- */

/* Is the tuple in output an older message of the latest's key? */
static bool
is_older_message(KappaChangelog *changelog)
{
	if (TTS_EMPTY(changelog->latest))
		return false;
	changelog->econtext->ecxt_outertuple = changelog->output;
	changelog->econtext->ecxt_innertuple = changelog->latest;
	return ExecQualAndReset(changelog->same_key, changelog->econtext);
}

/* Make a message of the tuple in latest, pointing into it. */
static void
fill_message(KappaChangelog *changelog)
{
	KappaMessage *message = &changelog->message;
	Datum *values = changelog->latest->tts_values + changelog->nkeys;
	bool *nulls = changelog->latest->tts_isnull + changelog->nkeys;

	memset(message, 0, sizeof(KappaMessage));
	message->kind = KAPPA_MESSAGE_DATA;
	message->partition = DatumGetInt32(values[SORT_PARTITION]);
	message->offset = DatumGetInt64(values[SORT_OFFSET]);
	message->timestamp = DatumGetInt64(values[SORT_TIMESTAMP]);
	message->timestamp_type = DatumGetChar(values[SORT_TIMESTAMP_TYPE]);
	if (!nulls[SORT_KEY])
	{
		message->key = VARDATA_ANY(DatumGetPointer(values[SORT_KEY]));
		message->key_len = VARSIZE_ANY_EXHDR(DatumGetPointer(values[SORT_KEY]));
	}
	if (!nulls[SORT_VALUE])
	{
		message->value = VARDATA_ANY(DatumGetPointer(values[SORT_VALUE]));
		message->value_len = VARSIZE_ANY_EXHDR(DatumGetPointer(values[SORT_VALUE]));
	}
	if (!nulls[SORT_HEADERS])
		unpack_headers(changelog, values[SORT_HEADERS]);
}

const KappaMessage *
kappa_changelog_next(KappaChangelog *changelog)
{
	while (tuplesort_gettupleslot(changelog->sort, true, false,
								  changelog->output, NULL))
	{
		CHECK_FOR_INTERRUPTS();
		if (is_older_message(changelog))
			continue;

		ExecCopySlot(changelog->latest, changelog->output);
		slot_getallattrs(changelog->latest);
		if (!changelog->tombstones &&
			changelog->latest->tts_isnull[changelog->nkeys + SORT_VALUE])
			continue;
		fill_message(changelog);
		return &changelog->message;
	}
	return NULL;
}
