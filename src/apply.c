/*-------------------------------------------------------------------------
 *
 * apply.c
 *	  Apply batches of messages to one version of a view
 *
 * A batch is applied in exactly one transaction, which also moves the
 * version's row in kappa.position.  Whoever sees the new contents therefore
 * sees the new offsets, and the other way round; starting again from
 * kappa.position after a crash neither repeats nor skips a message.
 *
 * Nothing here waits for Kafka.  The caller brings the messages, so that no
 * transaction stays open while the network is slow.
 *
 * IDENTIFICATION
 *	  src/apply.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "rewrite/rewriteSupport.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "append.h"
#include "apply.h"
#include "definition.h"
#include "definition_functions.h"
#include "guard.h"
#include "kappa.h"
#include "key_length.h"
#include "place.h"
#include "view_delta.h"
#include "view_merge.h"
#include "view_plan.h"

/*
 * A plan made for a few rows must not serve many: a nested loop over a lookup
 * that is right for ten rows takes minutes for a hundred thousand.  So there
 * is one plan for each of these sizes of batch.
 */
static const int class_limits[] = { 100, 10000 };

#define NCLASSES (lengthof(class_limits) + 1)

struct KappaApplierPrivate
{
	bool valid;         /* cleared by invalidation */
	bool same;          /* likewise, by that of functions */
	bool opened;        /* until then, that of any function counts */
	List *relations;    /* OIDs whose invalidation matters */
	List *functions;    /* likewise, hash values of a system cache */
	List *lookups;      /* OIDs of ordinary tables that the query reads */
	List *views;        /* OIDs of SQL views through which it reads the topic */
	bool appends;       /* rows of the delta are inserted as they are */
	KappaPlaces places; /* without a key if place.h can't keep the view */
	KappaVersion *version;
	MemoryContext statement_context;
	KappaStatements *statements; /* in statement_context; NULL until needed */
	SPIPlanPtr merge[NCLASSES];  /* prepared when first needed */
	SPIPlanPtr delta[NCLASSES];
	SPIPlanPtr find[NCLASSES];
	SPIPlanPtr place[NCLASSES];

	/* What is stored in kappa.position, and what a transaction has written. */
	int stored_npartitions;
	int64 *stored_next;
	int64 *pending_next;
	bool pending; /* pending_next was written in this transaction */
};

KappaApplier *kappa_apply_current = NULL;

/* Open appliers of this process, for the invalidation callback. */
static List *open_appliers = NIL;

/* ---- invalidation ---- */

static void
note_invalidation(Datum arg, Oid relid)
{
	ListCell *lc;

	foreach(lc, open_appliers)
	{
		KappaApplier *applier = lfirst(lc);

		if (!OidIsValid(relid) ||
			list_member_oid(applier->own->relations, relid))
			applier->own->valid = false;
	}
}

static void
note_function_invalidation(Datum arg, int cache, uint32 hash)
{
	ListCell *lc;

	foreach(lc, open_appliers)
	{
		KappaApplier *applier = lfirst(lc);

		if (hash == 0 || !applier->own->opened ||
			list_member_int(applier->own->functions, (int) hash))
			applier->own->same = false;
	}
}

bool
kappa_apply_is_valid(KappaApplier *applier)
{
	return applier->own->valid && applier->own->same;
}

/* However an applier goes, by closing it or with the memory of who opened it. */
static void
forget_applier(void *arg)
{
	open_appliers = list_delete_ptr(open_appliers, arg);
	if (kappa_apply_current == arg)
		kappa_apply_current = NULL;
}

static void
register_applier(KappaApplier *applier)
{
	static bool registered = false;
	MemoryContextCallback *callback = MemoryContextAlloc(applier->context,
														 sizeof(MemoryContextCallback));
	MemoryContext old;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(note_invalidation, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, note_function_invalidation, (Datum) 0);
		registered = true;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	open_appliers = lappend(open_appliers, applier);
	MemoryContextSwitchTo(old);
	callback->func = forget_applier;
	callback->arg = applier;
	MemoryContextRegisterResetCallback(applier->context, callback);
}

/* ---- opening ---- */

/*
 * The foreign table must still mean what it meant when the version was made:
 * another topic, path or key would put rows of another kind beside the old
 * ones.
 */
static void
check_fingerprint(KappaApplier *applier, const KappaTable *table)
{
	char *now = kappa_options_fingerprint(table, applier->columns);

	if (strcmp(now, applier->own->version->fingerprint) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("foreign table \"%s\" has changed since view \"%s\" was made",
						table->name, applier->name),
				 errdetail("It was: %s.  It is: %s.",
						   applier->own->version->fingerprint, now),
				 errhint("Change the foreign table back and call kappa.resume_view(), or call kappa.rebuild() to build the view anew.")));
}

/* Likewise SQL views that stand between the topic and the query. */
static void
check_sources(KappaApplier *applier)
{
	struct KappaApplierPrivate *own = applier->own;
	char *now = kappa_definition_hash_sources(own->version->definition, &own->views);

	if (!kappa_definition_same_sources(own->version->source_views, now))
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("an SQL view that view \"%s\" reads its topic through has changed since the view was made",
						applier->name),
				 errdetail("Rows from before and after the change would not be those of one query."),
				 errhint("Change the SQL view back and call kappa.resume_view(), or call kappa.rebuild() to build the view anew.")));
}

/* Likewise the functions that the query uses. */
static void
check_functions(KappaApplier *applier)
{
	struct KappaApplierPrivate *own = applier->own;
	List *all = NIL;
	List *callees = kappa_definition_list_callees(own->version->definition, &all);
	Oid changed = kappa_definition_find_changed_callee(callees, own->version->functions);
	ListCell *lc;

	if (OidIsValid(changed))
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("function %s that view \"%s\" uses has changed since the view was made",
						format_procedure_qualified(changed), applier->name),
				 errdetail("It or a function behind it is another one now.  Rows from before and after the change would not be those of one query."),
				 errhint("Change the function back and call kappa.resume_view(), or call kappa.rebuild() to build the view anew.")));
	foreach(lc, all)
		own->functions = lappend_int(own->functions,
									 (int) GetSysCacheHashValue1(PROCOID,
																 ObjectIdGetDatum(lfirst_oid(lc))));
}

/* Whoever drops what lies in kappa_state by hand has to rebuild the view. */
static void
require_table(KappaApplier *applier, Oid relid)
{
	LockRelationOid(relid, AccessShareLock);
	if (get_rel_name(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("a table that belongs to view \"%s\" was dropped", applier->name),
				 errhint("Build the view anew with kappa.rebuild().")));
}

/* Columns of the view's table, in the order of the query's; dropped ones make them differ. */
static List *
find_columns(Oid target, const KappaShape *shape)
{
	List *columns = NIL;
	ListCell *lc;

	foreach(lc, shape->outputs)
		columns = lappend_int(columns,
							  get_attnum(target, ((KappaOutput *) lfirst(lc))->name));
	return columns;
}

static void
set_places(struct KappaApplierPrivate *own, const KappaShape *shape)
{
	KappaVersion *version = own->version;

	if (!kappa_merge_can_be_placed(shape))
		return;
	own->places.target = version->target;
	own->places.columns = find_columns(version->target, shape);
	own->places.key = shape->key;
	own->places.companion = version->companion;
	own->places.nstates = list_length(kappa_merge_get_states(shape));
	own->places.old = kappa_merge_get_old(shape);
	own->places.others = kappa_merge_get_others(shape);
	own->places.changelog = shape->scan->changelog;
}

/* Analyse the definition and fill what follows from it. */
static void
load_definition(KappaApplier *applier)
{
	struct KappaApplierPrivate *own = applier->own;
	KappaVersion *version = own->version;
	Query *definition;
	KappaShape *shape;
	KappaTable *table;

	if (!OidIsValid(version->definition) ||
		get_rel_relkind(version->definition) != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("definition of view \"%s\" was dropped", applier->name),
				 errdetail("Something that its query reads was dropped with CASCADE.  The table keeps its rows as plain data.")));

	require_table(applier, version->target);
	if (OidIsValid(version->companion))
		require_table(applier, version->companion);
	check_sources(applier);
	check_functions(applier);
	definition = kappa_definition_get_query(version->definition);
	shape = kappa_analyze_query(definition, NULL, false);
	table = kappa_options_get_table(shape->scan->source);
	kappa_options_check_reader(table, applier->owner);
	applier->relid = table->relid;
	applier->serverid = table->serverid;
	applier->topic = pstrdup(table->topic);
	applier->changelog = table->changelog;
	applier->keys_stay = table->changelog && table->key_order == KAPPA_KEY_ORDER_OFFSET;
	applier->columns = shape->scan->columns;
	check_fingerprint(applier, table);

	own->appends = shape->key == NIL && shape->root->kind != KAPPA_NODE_AGGREGATE;
	set_places(own, shape);
	own->lookups = shape->scan->lookups;
	own->relations = list_concat_copy(shape->scan->lookups, own->views);
	own->relations = lappend_oid(own->relations, applier->view);
	own->relations = lappend_oid(own->relations, version->target);
	own->relations = lappend_oid(own->relations, version->definition);
	own->relations = lappend_oid(own->relations, table->relid);
	if (OidIsValid(version->companion))
		own->relations = lappend_oid(own->relations, version->companion);
}

static void
load_position(KappaApplier *applier)
{
	KappaPosition *position = kappa_catalog_get_position(applier->view,
														 applier->version);

	if (position == NULL)
		elog(ERROR, "view \"%s\" has no position", applier->name);
	if (strcmp(position->topic, applier->topic) != 0)
		elog(ERROR, "position of view \"%s\" is for another topic", applier->name);

	applier->npartitions = position->npartitions;
	applier->start_offset = position->start_offset;
	applier->next_offset = position->next_offset;
	applier->own->stored_npartitions = position->npartitions;
	applier->own->stored_next = palloc(Max(position->npartitions, 1) * sizeof(int64));
	memcpy(applier->own->stored_next, position->next_offset,
		   position->npartitions * sizeof(int64));
}

KappaApplier *
kappa_apply_open(Oid view, int32 version_number)
{
	MemoryContext parent = CurrentMemoryContext;
	MemoryContext context;
	KappaVersion *version;
	KappaView *row;
	KappaApplier *applier;

	/* Until it is complete it goes away with the transaction. */
	context = AllocSetContextCreate(CurTransactionContext, "kappa applier",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	LockRelationOid(view, AccessShareLock);
	row = kappa_catalog_get_view(view);
	version = row == NULL ? NULL : kappa_catalog_get_version(view, version_number);
	if (version == NULL)
	{
		MemoryContextSwitchTo(parent);
		MemoryContextDelete(context);
		return NULL;
	}

	applier = palloc0(sizeof(KappaApplier));
	applier->own = palloc0(sizeof(struct KappaApplierPrivate));
	applier->context = context;
	applier->view = view;
	applier->version = version_number;
	applier->name = kappa_definition_relation_name(view);
	applier->owner = row->owner;
	applier->target = version->target;
	applier->live = version->live;
	applier->kept_until = version->kept_until;
	applier->message_rate = version->message_rate;
	applier->own->version = version;
	applier->own->valid = true;
	applier->own->same = true;
	register_applier(applier);
	load_definition(applier);
	load_position(applier);
	applier->own->opened = true;
	MemoryContextSwitchTo(parent);

	MemoryContextSetParent(context, parent);
	return applier;
}

static void
free_plan(SPIPlanPtr plan)
{
	if (plan != NULL)
		SPI_freeplan(plan);
}

void
kappa_apply_close(KappaApplier *applier)
{
	for (int i = 0; i < NCLASSES; i++)
	{
		free_plan(applier->own->merge[i]);
		free_plan(applier->own->delta[i]);
		free_plan(applier->own->find[i]);
		free_plan(applier->own->place[i]);
	}
	MemoryContextDelete(applier->context);
}

/* ---- the log ---- */

/* The stored position of a partition must lie within the log. */
static void
check_position(KappaApplier *applier, int partition, int64 begin, int64 end)
{
	int64 next = applier->next_offset[partition];

	if (next < begin)
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("messages that view \"%s\" has not read are no longer in the log",
						applier->name),
				 errdetail("Partition %d of topic \"%s\" begins at offset " INT64_FORMAT ", the view's next offset is " INT64_FORMAT ": " INT64_FORMAT " offsets are missing.",
						   partition, applier->topic, begin, next, begin - next),
				 errhint("Rebuild the view with kappa.rebuild(), or accept the gap with kappa.seek_view().")));
	if (next > end)
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("position of view \"%s\" lies beyond the end of the log",
						applier->name),
				 errdetail("Partition %d of topic \"%s\" ends at offset " INT64_FORMAT ", the view's next offset is " INT64_FORMAT ".",
						   partition, applier->topic, end, next),
				 errhint("The topic was probably deleted and created again, or lost messages.  Rebuild the view with kappa.rebuild().")));
}

static void
check_partition_count(KappaApplier *applier, int n)
{
	if (n < applier->npartitions)
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("topic \"%s\" has lost partitions", applier->topic),
				 errdetail("View \"%s\" has read %d partitions, the topic has %d.",
						   applier->name, applier->npartitions, n),
				 errhint("The topic was probably deleted and created again.  Rebuild the view with kappa.rebuild().")));
	if (n > applier->npartitions && applier->npartitions > 0 && applier->keys_stay)
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("partitions were added to changelog topic \"%s\"", applier->topic),
				 errdetail("View \"%s\" has read %d partitions, the topic has %d.  A key may have moved to another partition, so that the order of its messages is lost.",
						   applier->name, applier->npartitions, n),
				 errhint("Write all keys again, and rebuild the view from the time at which that began, with the argument start of kappa.rebuild(); or, if later messages have later timestamps, set the foreign table's option key_order to timestamp.")));
}

void
kappa_apply_set_log(KappaApplier *applier, int n, const int64 *begin, const int64 *end)
{
	MemoryContext old;
	int64 *start;
	int64 *next;

	check_partition_count(applier, n);
	for (int p = 0; p < applier->npartitions; p++)
		if (applier->next_offset[p] >= 0)
			check_position(applier, p, begin[p], end[p]);

	old = MemoryContextSwitchTo(applier->context);
	start = palloc(Max(n, 1) * sizeof(int64));
	next = palloc(Max(n, 1) * sizeof(int64));
	for (int p = 0; p < n; p++)
	{
		bool known = p < applier->npartitions && applier->next_offset[p] >= 0;

		/* Sought before it was read: it still begins where the log did. */
		start[p] = known && applier->start_offset[p] >= 0 ? applier->start_offset[p] : begin[p];
		next[p] = known ? applier->next_offset[p] : begin[p];
	}
	pfree(applier->start_offset);
	pfree(applier->next_offset);
	applier->start_offset = start;
	applier->next_offset = next;
	applier->npartitions = n;
	MemoryContextSwitchTo(old);
}

/* ---- applying ---- */

static int
size_class(int nmessages)
{
	int size = 0;

	while (size < lengthof(class_limits) && nmessages > class_limits[size])
		size++;
	return size;
}

static void
set_for_planning(const char *name)
{
	(void) set_config_option(name, "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * A lookup in the key's index for each row costs what the batch is worth,
 * however large the table is or becomes.  The planner, which does not know that
 * the rows come in the order of the index, would rather read the whole table
 * for every batch.
 */
static void
plan_by_index(SPIPlanPtr plan)
{
	int level = NewGUCNestLevel();

	set_for_planning("enable_hashjoin");
	set_for_planning("enable_mergejoin");
	set_for_planning("enable_seqscan");
	ReleaseCachedPlan(SPI_plan_get_cached_plan(plan), CurrentResourceOwner);
	AtEOXact_GUC(true, level);
}

/*
 * Make sure that a statement is prepared.  A plan that an invalidation has
 * touched is made anew from the text rather than by the plan cache, which would
 * parse the text again at a moment of its own choice.
 */
static SPIPlanPtr
get_plan(KappaApplier *applier, SPIPlanPtr *plan, const char *text, bool by_index)
{
	if (*plan != NULL && !SPI_plan_is_valid(*plan))
	{
		SPI_freeplan(*plan);
		*plan = NULL;
	}
	if (*plan == NULL)
	{
		SPIPlanPtr fresh = SPI_prepare(text, 0, NULL);

		if (fresh == NULL)
			elog(ERROR, "could not prepare the merge of view \"%s\": %s",
				 applier->name, SPI_result_code_string(SPI_result));
		SPI_keepplan(fresh);
		*plan = fresh;
		if (by_index)
			plan_by_index(fresh);
	}
	return *plan;
}

/* The number of rows merged is the result of the statement, or what it wrote. */
static uint64
run_plan(KappaApplier *applier, SPIPlanPtr plan)
{
	int rc = SPI_execute_plan(plan, NULL, NULL, false, 0);
	bool isnull;

	if (rc < 0)
		elog(ERROR, "merge of view \"%s\" failed: %s", applier->name,
			 SPI_result_code_string(rc));
	if (rc != SPI_OK_SELECT)
		return SPI_processed;
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
									   1, &isnull));
}

/* Run a SELECT whose rows a receiver takes. */
static uint64
run_into(KappaApplier *applier, SPIPlanPtr plan, DestReceiver *receiver)
{
	SPIExecuteOptions options = { .dest = receiver };
	int rc = SPI_execute_plan_extended(plan, &options);

	if (rc < 0)
		elog(ERROR, "merge of view \"%s\" failed: %s", applier->name,
			 SPI_result_code_string(rc));
	return SPI_processed;
}

/*
 * Instead of INSERT ... ON CONFLICT in two tables: SELECTs alone, and a faster
 * way to find and to write the rows of keys.
 */
static uint64
run_places(KappaApplier *applier, int class)
{
	struct KappaApplierPrivate *own = applier->own;
	KappaPlaces *places = &own->places;
	EphemeralNamedRelation found = kappa_place_make_relation(places, KAPPA_FOUND);
	SPIPlanPtr find;
	SPIPlanPtr place;
	uint64 rows;

	if (SPI_register_relation(found) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register relation \"%s\"", KAPPA_FOUND);
	find = get_plan(applier, &own->find[class], own->statements->find, false);
	place = get_plan(applier, &own->place[class], own->statements->place, false);
	(void) run_into(applier, find, kappa_place_create_finder(places, found));
	rows = run_into(applier, place, kappa_place_create_writer(places));
	tuplestore_end(found->reldata);
	return rows;
}

/*
 * After an upgrade of the server an aggregate may keep its state in another
 * type.  Where the type is kappa.state before and after, the states themselves
 * know who made them.
 */
static void
check_states(KappaApplier *applier, const KappaShape *shape)
{
	Oid companion = applier->own->version->companion;
	ListCell *lc;

	if (!shape->needs_companion || shape->root->kind != KAPPA_NODE_AGGREGATE)
		return;
	foreach(lc, shape->root->states)
	{
		KappaState *state = lfirst(lc);

		if (get_atttype(companion, get_attnum(companion, state->name)) == state->type)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("states of view \"%s\" are not those that PostgreSQL %d keeps",
						applier->name, PG_MAJORVERSION_NUM),
				 errdetail("Aggregate %s has a state of type %s.",
						   format_procedure(state->aggref->aggfnoid), format_type_be(state->type)),
				 errhint("Rebuild the view with kappa.rebuild().")));
	}
}

/*
 * The definition knows what it refers to by OID, the text by name.  So the text
 * is written anew whenever it is going to be parsed: since the last time a
 * function or a schema may have got another name, and another one its name.
 */
static void
write_statements(KappaApplier *applier)
{
	struct KappaApplierPrivate *own = applier->own;
	MemoryContext old;
	Query *definition;
	KappaShape *shape;

	if (own->statement_context == NULL)
		own->statement_context = AllocSetContextCreate(applier->context,
													   "kappa statements",
													   ALLOCSET_SMALL_SIZES);
	MemoryContextReset(own->statement_context);
	own->statements = NULL;
	old = MemoryContextSwitchTo(own->statement_context);
	definition = kappa_definition_get_query(own->version->definition);
	shape = kappa_analyze_query(definition, NULL, false);
	check_states(applier, shape);
	own->statements = kappa_definition_get_statements(definition, shape, own->version,
													  false);
	MemoryContextSwitchTo(old);
}

static bool
is_prepared(SPIPlanPtr plan)
{
	return plan != NULL && SPI_plan_is_valid(plan);
}

static uint64
run_merge(KappaApplier *applier, int nmessages)
{
	struct KappaApplierPrivate *own = applier->own;
	int class = size_class(nmessages);
	bool append = own->appends && kappa_append_is_possible(applier->target);
	bool places = own->places.key != NIL &&
				  kappa_place_is_possible(applier->target, own->version->companion);
	SPIPlanPtr *merge = append ? &own->delta[class] : &own->merge[class];
	bool prepared = places
						? is_prepared(own->find[class]) && is_prepared(own->place[class])
						: is_prepared(*merge);
	KappaStatements *statements;

	if (own->statements == NULL || !prepared)
		write_statements(applier);
	statements = own->statements;
	if (places)
		return run_places(applier, class);
	if (append)
		return run_into(applier, get_plan(applier, merge, statements->delta, false),
						kappa_append_create_receiver(applier->target));
	return run_plan(applier, get_plan(applier, merge, statements->merge,
									  statements->by_index));
}

static void
throw_outdated(KappaApplier *applier)
{
	applier->outdated = true;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("something that view \"%s\" refers to has just been altered",
					applier->name)));
}

/*
 * The merge names its tables.  Locked, they keep their names until it has run;
 * if they have others by now, or are gone, the applier is not what it was:
 * another table may have the name.
 */
static void
lock_tables(KappaApplier *applier)
{
	struct KappaApplierPrivate *own = applier->own;
	ListCell *lc;

	LockRelationOid(applier->target, RowExclusiveLock);
	if (OidIsValid(own->version->companion))
		LockRelationOid(own->version->companion, RowExclusiveLock);
	LockRelationOid(own->version->definition, AccessShareLock);
	LockRelationOid(applier->relid, AccessShareLock);
	foreach(lc, own->lookups)
		LockRelationOid(lfirst_oid(lc), AccessShareLock);
	foreach(lc, own->views)
		LockRelationOid(lfirst_oid(lc), AccessShareLock);

	if (!kappa_apply_is_valid(applier))
		throw_outdated(applier);
}

/*
 * No lock keeps a function from being replaced.  Whatever the statements have
 * called, the transaction commits it only if that was what the view began with.
 */
static void
check_no_function_replaced(KappaApplier *applier)
{
	AcceptInvalidationMessages();
	if (!applier->own->same)
		throw_outdated(applier);
}

static void
add_context(void *arg)
{
	KappaApplier *applier = arg;

	errcontext("maintenance of view \"%s\"", applier->name);
}

/*
 * Locks that a function took for the session, and did not give back, must not
 * outlive its owner's turn, nor may those of a turn that has failed.  In a
 * user's own session they are the user's.
 */
static void
release_session_locks(void)
{
	if (MyBackendType == B_BG_WORKER)
		LockReleaseSession(USER_LOCKMETHOD);
}

uint64
kappa_apply_run(KappaApplier *applier, KappaApplyStep step, void *arg)
{
	KappaOwnerScope scope;
	ErrorContextCallback callback;
	uint64 rows;

	Assert(kappa_apply_current == NULL);
	kappa_apply_current = applier;
	callback.callback = add_context;
	callback.arg = applier;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	release_session_locks();
	lock_tables(applier);
	kappa_definition_enter_owner(&scope, applier->owner,
								 applier->own->version->settings);
	kappa_guard_permit(applier->target);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	rows = step(applier, arg);
	check_no_function_replaced(applier);
	SPI_finish();
	PopActiveSnapshot();
	kappa_guard_permit(InvalidOid);
	kappa_definition_leave_owner(&scope);
	release_session_locks();

	error_context_stack = callback.previous;
	kappa_apply_current = NULL;
	return rows;
}

typedef struct BatchStep
{
	KappaBatchTable *bt;
	const KappaBatchPart *part;
	uint64 (*run)(KappaApplier *applier, int nmessages);
} BatchStep;

static uint64
run_over_part(KappaApplier *applier, void *arg)
{
	BatchStep *step = arg;
	uint64 rows;

	kappa_batch_bind(step->bt, applier->next_offset, applier->npartitions, step->part);
	rows = step->run(applier, step->part->last - step->part->first);
	kappa_batch_unbind_all();
	return rows;
}

uint64
kappa_apply_batch(KappaApplier *applier, KappaBatchTable *bt, const KappaBatchPart *part)
{
	BatchStep step = { bt, part, run_merge };

	return kappa_apply_run(applier, run_over_part, &step);
}

static uint64
run_delta(KappaApplier *applier, int nmessages)
{
	struct KappaApplierPrivate *own = applier->own;
	SPIPlanPtr *plan = &own->delta[size_class(nmessages)];

	if (own->statements == NULL || !is_prepared(*plan))
		write_statements(applier);
	return run_into(applier, get_plan(applier, plan, own->statements->delta, false),
					kappa_key_length_create_receiver(applier->target, own->version->key));
}

void
kappa_apply_probe(KappaApplier *applier, KappaBatchTable *bt, const KappaBatchPart *part)
{
	BatchStep step = { bt, part, run_delta };

	(void) kappa_apply_run(applier, run_over_part, &step);
}

const KappaVersion *
kappa_apply_get_version(const KappaApplier *applier)
{
	return applier->own->version;
}

void
kappa_apply_store_position(KappaApplier *applier, const int64 *new_next)
{
	struct KappaApplierPrivate *own = applier->own;
	Size size = applier->npartitions * sizeof(int64);

	own->pending = false;
	if (own->stored_npartitions == applier->npartitions &&
		memcmp(own->stored_next, new_next, size) == 0)
		return;

	kappa_apply_current = applier;
	kappa_catalog_store_position(applier->view, applier->version, applier->topic,
								 applier->npartitions, applier->start_offset,
								 own->stored_next, own->stored_npartitions,
								 new_next);
	if (own->pending_next != NULL)
		pfree(own->pending_next);
	own->pending_next = MemoryContextAlloc(applier->context, Max(size, 1));
	memcpy(own->pending_next, new_next, size);
	own->pending = true;
	kappa_apply_current = NULL;
}

void
kappa_apply_committed(KappaApplier *applier)
{
	struct KappaApplierPrivate *own = applier->own;

	if (!own->pending)
		return;

	pfree(own->stored_next);
	own->stored_next = own->pending_next;
	own->stored_npartitions = applier->npartitions;
	memcpy(applier->next_offset, own->stored_next,
		   applier->npartitions * sizeof(int64));
	own->pending_next = NULL;
	own->pending = false;
}
