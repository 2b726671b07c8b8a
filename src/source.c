/*-------------------------------------------------------------------------
 *
 * source.c
 *	  What a worker reads: topics, through the connections of views' owners
 *
 * A source is one topic, fetched once for all views of the worker that read it
 * with the same owner's credentials.  It is started at the smallest position
 * of its views; those that are further skip what they have.
 *
 * Trouble with the brokers is never an error of the process or of a view: the
 * source stops fetching, its views are shown as retrying with the reason, and
 * it is started again after a delay, from the positions of the views.  All
 * questions to the brokers are asked from here, outside any transaction, and
 * wait for a short time only, so that the worker's other sources go on.
 *
 * IDENTIFICATION
 *	  src/source.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "deliver.h"
#include "fdw_options.h"
#include "kafka_admin.h"
#include "kafka_error.h"
#include "kappa.h"
#include "source.h"
#include "waiters.h"

/* How long one question to the brokers may keep the worker: alone, and with others. */
#define ASK_TIMEOUT_MS 3000
#define BUSY_ASK_TIMEOUT_MS 1000

/* The longest delay before the brokers are tried again. */
#define MAX_RETRY_DELAY_MS 5000

/* Errors that librdkafka heals by itself within this time are not shown. */
#define GRACE_MS 1000

/* Between two questions for the end offsets while behind. */
#define ENDS_INTERVAL_MS 1000

/* A source that has worked for so long starts again with the shortest delay. */
#define HEALTHY_MS 60000

/* How long the second client of a connection is kept without questions. */
#define ASKER_IDLE_MS 60000

/* First size of the array of messages; it grows as batches do. */
#define FIRST_ALLOCATION 256

List *kappa_sources = NIL;
static List *connections = NIL; /* of KappaConnection */

/* Made when it is needed; freed when a connection comes or goes. */
static WaitEventSet *wait_set = NULL;

/* ---- connections ---- */

static KappaConnection *
find_connection(Oid serverid, Oid owner)
{
	ListCell *lc;

	foreach(lc, connections)
	{
		KappaConnection *connection = lfirst(lc);

		if (connection->serverid == serverid && connection->owner == owner)
			return connection;
	}
	return NULL;
}

/* Read the options of a connection, into CurrentMemoryContext. */
static KafkaConfig *
read_config(Oid serverid, Oid owner)
{
	MemoryContext context = CurrentMemoryContext;
	KafkaConfig *config;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	config = kappa_options_get_connection(serverid, owner);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return config;
}

static void
forget_wait_set(void)
{
	if (wait_set != NULL)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
}

WaitEventSet *
kappa_source_wait_set(void)
{
	ListCell *lc;

	if (wait_set != NULL)
		return wait_set;
	wait_set = create_session_wait_event_set(2 + list_length(connections));
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	foreach(lc, connections)
	{
		KappaConnection *connection = lfirst(lc);

		AddWaitEventToSet(wait_set, WL_SOCKET_READABLE,
						  kappa_kafka_socket(connection->client), NULL, connection);
	}
	return wait_set;
}

void
kappa_source_note_readable(void *arg)
{
	KappaConnection *connection = arg;
	ListCell *lc;

	kappa_kafka_drain(connection->client);
	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);

		if (source->connection == connection && source->started)
			source->readable = true;
	}
}

/* Open the client for questions; throws. */
static KafkaClient *
get_asker(KappaConnection *connection)
{
	MemoryContext old;

	connection->asker_used_at = GetCurrentTimestamp();
	if (connection->asker != NULL)
		return connection->asker;
	if (connection->asker_context == NULL)
		connection->asker_context = AllocSetContextCreate(connection->context, "kappa asker",
														  ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(connection->asker_context);
	connection->asker = kappa_kafka_open(connection->config, false);
	MemoryContextSwitchTo(old);
	return connection->asker;
}

static void
close_idle_asker(KappaConnection *connection, TimestampTz now)
{
	if (connection->asker == NULL ||
		!TimestampDifferenceExceeds(connection->asker_used_at, now, ASKER_IDLE_MS))
		return;
	MemoryContextDelete(connection->asker_context);
	connection->asker_context = NULL;
	connection->asker = NULL;
}

static void
destroy_connection(KappaConnection *connection)
{
	connections = list_delete_ptr(connections, connection);
	forget_wait_set();
	MemoryContextDelete(connection->context);
}

/* Stop fetching; it must be told anew how the log stands. */
static void
stop_source(KappaSource *source)
{
	ListCell *lc;

	kappa_source_release(source);
	if (source->topic != NULL)
		kappa_kafka_stop_all(source->topic);
	for (int p = 0; p < source->npartitions; p++)
		source->fetched[p] = source->eof[p] = -1;
	source->started = false;
	source->stale = true;
	source->readable = false;
	source->advanced = false;
	foreach(lc, source->views)
		((KappaServed *) lfirst(lc))->log_set = false;
}

static void
close_connection(KappaConnection *connection)
{
	ListCell *lc;

	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);

		if (source->connection != connection)
			continue;
		stop_source(source);
		source->connection = NULL;
		source->topic = NULL;
		source->retry_at = 0;
	}
	connections = list_delete_ptr(connections, connection);
	MemoryContextDelete(connection->context);
}

/*
 * Find or open the connection for a source; throws.  Headers cost time for
 * every message, so they are asked for when the first view reads them.
 */
static KappaConnection *
open_connection(Oid serverid, Oid owner, bool with_headers)
{
	KappaConnection *connection = find_connection(serverid, owner);
	MemoryContext old = CurrentMemoryContext;
	MemoryContext context;

	if (connection != NULL && (connection->with_headers || !with_headers))
		return connection;
	if (connection != NULL)
		close_connection(connection);

	/* Until it is complete it goes away with the round. */
	context = AllocSetContextCreate(KappaRoundContext, "kappa connection",
									ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(context);
	connection = palloc0(sizeof(KappaConnection));
	connection->context = context;
	connection->serverid = serverid;
	connection->owner = owner;
	connection->with_headers = with_headers;
	connection->config = read_config(serverid, owner);
	connection->client = kappa_kafka_open(connection->config, with_headers);
	MemoryContextSwitchTo(KappaWorkerContext);
	connections = lappend(connections, connection);
	MemoryContextSetParent(context, KappaWorkerContext);
	forget_wait_set();
	MemoryContextSwitchTo(old);
	return connection;
}

static bool
same_config(const KafkaConfig *a, const KafkaConfig *b)
{
	if (a->nproperties != b->nproperties)
		return false;
	for (int i = 0; i < a->nproperties; i++)
		if (strcmp(a->properties[i].name, b->properties[i].name) != 0 ||
			strcmp(a->properties[i].value, b->properties[i].value) != 0)
			return false;
	return true;
}

typedef struct ConfigStep
{
	KappaConnection *connection;
	KafkaConfig *config;
} ConfigStep;

static void
read_config_step(void *arg)
{
	ConfigStep *step = arg;

	step->config = read_config(step->connection->serverid, step->connection->owner);
}

void
kappa_source_reread_connections(void)
{
	List *all = list_copy(connections);
	ListCell *lc;

	foreach(lc, all)
	{
		ConfigStep step = {.connection = lfirst(lc)};

		/* One whose options cannot be read is closed, too, and says why then. */
		if (kappa_worker_attempt(read_config_step, &step) != NULL ||
			!same_config(step.config, step.connection->config))
			close_connection(step.connection);
	}

	/* A new mapping may be what a source has been waiting for. */
	foreach(lc, kappa_sources)
		if (!((KappaSource *) lfirst(lc))->started)
			((KappaSource *) lfirst(lc))->retry_at = 0;
}

/* ---- trouble ---- */

/*
 * When the source is started again, the last messages must still be there: the
 * topic may have been deleted and made again meanwhile.
 */
static void
check_again(KappaSource *source, KappaServed *served)
{
	MemoryContext old;
	KappaLastMessage *check;
	Size size = Max(source->npartitions, 1) * sizeof(int64);

	if (served->check != NULL || source->npartitions == 0)
		return;
	old = MemoryContextSwitchTo(served->context);
	check = palloc(sizeof(KappaLastMessage));
	check->npartitions = source->npartitions;
	check->offset = memcpy(palloc(size), source->last_offset, size);
	check->timestamp = memcpy(palloc(size), source->last_timestamp, size);
	check->crc = memcpy(palloc(size), source->last_crc, size);
	served->check = check;
	MemoryContextSwitchTo(old);
}

/*
 * The source cannot be read for now.  shown: its views are shown as retrying;
 * otherwise the next attempt follows at once, and only its failure will be.
 */
static void
note_trouble(KappaSource *source, const ErrorData *error, bool shown)
{
	TimestampTz now = GetCurrentTimestamp();
	int64 delay = 0;
	ListCell *lc;

	if (source->trouble_at == 0 ||
		TimestampDifferenceExceeds(source->trouble_at, now, HEALTHY_MS))
		source->failures = 0;
	source->failures++;
	source->trouble_at = now;
	if (shown || source->failures > 1)
		delay = kappa_shmem_retry_delay(source->failures,
										Min(kappa_retry_max_delay, MAX_RETRY_DELAY_MS));
	stop_source(source);
	foreach(lc, source->views)
		check_again(source, lfirst(lc));
	source->retry_at = TimestampTzPlusMilliseconds(now, delay);
	if (!shown && !source->suspended)
		return;
	source->suspended = true;
	foreach(lc, source->views)
		kappa_worker_suspend_view(lfirst(lc), error, source->retry_at);
}

static bool
is_down(KappaConnection *connection)
{
	const char *reason;

	return kappa_kafka_last_error(connection->client, &reason) != 0 ||
		(connection->asker != NULL &&
		 kappa_kafka_last_error(connection->asker, &reason) != 0);
}

/*
 * Likewise for an error that a question to the brokers has met.  If the whole
 * client is in trouble this concerns all sources of the connection: none of
 * them needs to find out for itself.
 */
static void
note_broker_trouble(KappaSource *source, const ErrorData *error)
{
	KappaConnection *connection = source->connection;
	ListCell *lc;

	if (connection != NULL && is_down(connection) &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION)
	{
		connection->down_since = 0;
		foreach(lc, kappa_sources)
		{
			KappaSource *other = lfirst(lc);

			if (other != source && other->connection == connection)
				note_trouble(other, error, true);
		}
	}
	note_trouble(source, error, true);
}

/* Messages or ends of partitions arrive: whatever it was is over. */
static void
note_success(KappaSource *source)
{
	ListCell *lc;

	source->connection->down_since = 0;
	if (!source->suspended)
		return;
	source->suspended = false;
	foreach(lc, source->views)
		if (!((KappaServed *) lfirst(lc))->failing)
			kappa_worker_resume_view(lfirst(lc));
}

/* Whether sources would have to wait for the answer to another one's question. */
static bool
others_are_started(KappaSource *source)
{
	ListCell *lc;

	foreach(lc, kappa_sources)
		if (lfirst(lc) != source && ((KappaSource *) lfirst(lc))->started)
			return true;
	return false;
}

/* Ask the brokers about a source, but do not wait for long. */
static ErrorData *
attempt_asking(void (*step)(void *arg), KappaSource *source)
{
	int saved = kappa_connect_timeout;
	int patience = others_are_started(source) ? BUSY_ASK_TIMEOUT_MS : ASK_TIMEOUT_MS;
	ErrorData *error;

	kappa_connect_timeout = Min(saved, patience);
	error = kappa_worker_attempt(step, source);
	kappa_connect_timeout = saved;
	return error;
}

/* Whether a question would have to wait for a fetch. */
static bool
is_fetching(KappaConnection *connection)
{
	ListCell *lc;

	foreach(lc, kappa_sources)
		if (((KappaSource *) lfirst(lc))->connection == connection &&
			((KappaSource *) lfirst(lc))->started)
			return true;
	return false;
}

/* The handle to ask through; throws. */
static KafkaTopic *
get_asking_topic(KappaSource *source)
{
	if (!is_fetching(source->connection))
		return source->topic;
	return kappa_kafka_topic(get_asker(source->connection), source->name);
}

static void
ask_ends_step(void *arg)
{
	KappaSource *source = arg;

	kappa_kafka_watermarks(get_asking_topic(source), source->npartitions, NULL, source->end);
}

/* Whoever waits for the end of the log means that of new partitions, too. */
static void
ask_all_ends_step(void *arg)
{
	KappaSource *source = arg;
	KafkaTopic *topic = get_asking_topic(source);

	if (kappa_kafka_partition_count(topic) != source->npartitions)
		source->stale = true;
	else
		kappa_kafka_watermarks(topic, source->npartitions, NULL, source->end);
}

/*
 * A question beside the fetch has failed.  Busy brokers that answer late are
 * no trouble as long as the client has no error to tell.
 */
static void
judge_failed_question(KappaSource *source, const ErrorData *error)
{
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION &&
		!is_down(source->connection))
		ereport(DEBUG1,
				(errmsg_internal("%s", error->message),
				 errdetail_internal("%s", error->detail ? error->detail : "")));
	else
		note_broker_trouble(source, error);
}

static bool
ask_ends(KappaSource *source, void (*step)(void *arg))
{
	ErrorData *error;

	if (!source->started)
		return false;
	source->ends_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ENDS_INTERVAL_MS);
	error = attempt_asking(step, source);
	source->ask_failed = error != NULL;
	if (error != NULL)
		judge_failed_question(source, error);
	return error == NULL;
}

bool
kappa_source_ask_all_ends(KappaSource *source)
{
	if (source->ask_failed && GetCurrentTimestamp() < source->ends_at)
		return false;
	return ask_ends(source, ask_all_ends_step) && !source->stale;
}

/*
 * librdkafka speaks of single connections that it has lost as of all brokers
 * being down.  So after a time of grace the brokers are asked something: only
 * if they do not answer there is trouble.
 */
void
kappa_source_check_connections(TimestampTz now)
{
	ListCell *lc;
	const char *reason;

	foreach(lc, connections)
	{
		KappaConnection *connection = lfirst(lc);

		if (kappa_kafka_poll(connection->client, &reason) != 0 &&
			connection->down_since == 0)
			connection->down_since = now;
		if (kappa_kafka_last_error(connection->client, &reason) == 0)
			connection->down_since = 0;
		close_idle_asker(connection, now);
	}

	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);
		KappaConnection *connection = source->connection;

		if (connection == NULL || connection->down_since == 0 || !source->started ||
			!TimestampDifferenceExceeds(connection->down_since, now, GRACE_MS))
			continue;
		if (ask_ends(source, ask_ends_step))
			connection->down_since = 0;
	}
}

/* ---- sources and their views ---- */

static KappaSource *
create_source(Oid serverid, Oid owner, const char *name)
{
	MemoryContext context = AllocSetContextCreate(KappaWorkerContext, "kappa source",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	KappaSource *source = palloc0(sizeof(KappaSource));

	source->context = context;
	source->serverid = serverid;
	source->owner = owner;
	source->name = pstrdup(name);
	source->table_context = AllocSetContextCreate(context, "kappa decoders",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(KappaWorkerContext);
	kappa_sources = lappend(kappa_sources, source);
	MemoryContextSwitchTo(old);
	return source;
}

static KappaSource *
get_source(Oid serverid, Oid owner, const char *name)
{
	ListCell *lc;

	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);

		if (source->serverid == serverid && source->owner == owner &&
			strcmp(source->name, name) == 0)
			return source;
	}
	return create_source(serverid, owner, name);
}

/*
 * Views are applied in the order of their OIDs, so that two workers that meet
 * at the same tables lock them in the same order.
 */
static int
compare_served(const ListCell *a, const ListCell *b)
{
	const KappaServed *first = lfirst(a);
	const KappaServed *second = lfirst(b);

	if (first->view != second->view)
		return first->view < second->view ? -1 : 1;
	return first->version < second->version ? -1 : 1;
}

void
kappa_source_add_view(KappaServed *served)
{
	KappaApplier *applier = served->applier;
	KappaSource *source = get_source(applier->serverid, applier->owner, applier->topic);
	MemoryContext old = MemoryContextSwitchTo(source->context);

	Assert(source->nmessages == 0);
	source->views = lappend(source->views, served);
	list_sort(source->views, compare_served);
	MemoryContextSwitchTo(old);
	source->stale = true;
	served->source = source;
	served->log_set = false;
	kappa_deliver_forget_tables(source);
	if (source->suspended && !served->troubled)
		source->retry_at = 0;
}

void
kappa_source_remove_view(KappaServed *served)
{
	served->source->views = list_delete_ptr(served->source->views, served);
	kappa_deliver_forget_tables(served->source);
	served->source = NULL;
}

static bool
is_used(KappaConnection *connection)
{
	ListCell *lc;

	foreach(lc, kappa_sources)
		if (((KappaSource *) lfirst(lc))->connection == connection)
			return true;
	return false;
}

void
kappa_source_sweep(void)
{
	List *all;
	ListCell *lc;

	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);

		if (source->views != NIL)
			continue;
		stop_source(source);
		kappa_sources = foreach_delete_current(kappa_sources, lc);
		MemoryContextDelete(source->context);
	}
	all = list_copy(connections);
	foreach(lc, all)
		if (!is_used(lfirst(lc)))
			destroy_connection(lfirst(lc));
	list_free(all);
}

/* ---- how the log stands ---- */

/* Make an array longer; new elements are -1. */
static int64 *
extend_array(int64 *array, int old, int new)
{
	array = array == NULL ? palloc(new * sizeof(int64)) : repalloc(array, new * sizeof(int64));
	for (int i = old; i < new; i++)
		array[i] = -1;
	return array;
}

/* Partitions never become fewer here; kappa_apply_set_log() finds that out. */
static void
set_partition_count(KappaSource *source, int n)
{
	MemoryContext old = MemoryContextSwitchTo(source->context);

	if (n > source->npartitions)
	{
		source->begin = extend_array(source->begin, source->npartitions, n);
		source->end = extend_array(source->end, source->npartitions, n);
		source->eof = extend_array(source->eof, source->npartitions, n);
		source->fetched = extend_array(source->fetched, source->npartitions, n);
		source->last_offset = extend_array(source->last_offset, source->npartitions, n);
		source->last_timestamp = extend_array(source->last_timestamp, source->npartitions, n);
		source->last_crc = extend_array(source->last_crc, source->npartitions, n);
	}
	source->npartitions = n;
	MemoryContextSwitchTo(old);
}

static bool
needs_headers(KappaSource *source)
{
	ListCell *lc;

	foreach(lc, source->views)
		if (((KappaServed *) lfirst(lc))->with_headers)
			return true;
	return false;
}

/* Connect, and ask for everything about the topic; throws. */
static void
ask_log_step(void *arg)
{
	KappaSource *source = arg;
	KappaConnection *connection;
	KafkaTopic *topic;
	int n;

	connection = open_connection(source->serverid, source->owner, needs_headers(source));
	source->connection = connection;
	source->topic = kappa_kafka_topic(connection->client, source->name);
	topic = get_asking_topic(source);
	n = kappa_kafka_partition_count(topic);
	set_partition_count(source, n);
	kappa_kafka_watermarks(topic, n, source->begin, source->end);
}

typedef struct SetLogStep
{
	KappaServed *served;
	KappaSource *source;
} SetLogStep;

static void
set_log_step(void *arg)
{
	SetLogStep *step = arg;

	kappa_apply_set_log(step->served->applier, step->source->npartitions,
						step->source->begin, step->source->end);
	step->served->log_set = true;
}

/*
 * Tell all views how the log stands.  One that cannot go on from its position
 * leaves the source.
 */
static void
set_log(KappaSource *source)
{
	List *views = list_copy(source->views);
	ListCell *lc;

	foreach(lc, views)
	{
		SetLogStep step = {.served = lfirst(lc), .source = source};
		ErrorData *error = kappa_worker_attempt(set_log_step, &step);

		if (error != NULL)
			kappa_worker_fail_view(step.served, error, NULL);
	}
}

/*
 * Where to start a partition: at the smallest next offset of the views, or at
 * a message before it that has to be looked at again.
 */
static int64
start_offset(KappaSource *source, int partition)
{
	int64 result = PG_INT64_MAX;
	ListCell *lc;

	foreach(lc, source->views)
	{
		KappaServed *served = lfirst(lc);
		KappaLastMessage *check = served->check;
		int64 offset = served->applier->next_offset[partition];

		if (check != NULL && partition < check->npartitions &&
			check->offset[partition] >= source->begin[partition])
			offset = Min(offset, check->offset[partition]);
		result = Min(result, offset);
	}
	return result;
}

/* Start the partitions that are not started early enough for all views. */
static void
start_partitions_step(void *arg)
{
	KappaSource *source = arg;

	for (int p = 0; p < source->npartitions; p++)
	{
		int64 offset = start_offset(source, p);

		if (source->fetched[p] >= 0 && source->fetched[p] <= offset)
			continue;
		kappa_kafka_start(source->topic, p, offset);
		source->fetched[p] = offset;
		source->eof[p] = -1;
	}
}

/* Every partition has been read to an end that it had. */
static bool
has_seen_ends(KappaSource *source)
{
	for (int p = 0; p < source->npartitions; p++)
		if (source->eof[p] < 0)
			return false;
	return true;
}

/* A view's record of its last messages serves as the source's until there are newer ones. */
static void
take_last_messages(KappaSource *source, KappaServed *served)
{
	KappaLastMessage *check = served->check;

	for (int p = 0; check != NULL && p < Min(check->npartitions, source->npartitions); p++)
	{
		if (check->offset[p] <= source->last_offset[p])
			continue;
		source->last_offset[p] = check->offset[p];
		source->last_timestamp[p] = check->timestamp[p];
		source->last_crc[p] = check->crc[p];
	}
}

static void
start_source(KappaSource *source, TimestampTz now)
{
	ErrorData *error;
	ListCell *lc;

	/* Messages in hand are read again, from where the views are. */
	kappa_source_release(source);
	source->advanced = false;
	source->retry_at = 0;
	error = attempt_asking(ask_log_step, source);
	if (error == NULL)
	{
		set_log(source);
		if (source->views == NIL)
			return;
		error = kappa_worker_attempt(start_partitions_step, source);
	}
	if (error != NULL)
	{
		note_broker_trouble(source, error);
		return;
	}
	foreach(lc, source->views)
		take_last_messages(source, lfirst(lc));
	source->started = true;
	source->stale = false;
	source->settled = false;
	source->advanced = has_seen_ends(source);
	source->readable = true;
	source->metadata_at = TimestampTzPlusMilliseconds(now, kappa_metadata_interval);
	source->ends_at = TimestampTzPlusMilliseconds(now, ENDS_INTERVAL_MS);
	kappa_source_report(source, true);
}

static void
count_partitions_step(void *arg)
{
	KappaSource *source = arg;

	if (kappa_kafka_partition_count(get_asking_topic(source)) != source->npartitions)
		source->stale = true;
}

/* Look for new partitions. */
static void
look_for_partitions(KappaSource *source, TimestampTz now)
{
	ErrorData *error;

	source->metadata_at = TimestampTzPlusMilliseconds(now, kappa_metadata_interval);
	error = attempt_asking(count_partitions_step, source);
	if (error != NULL)
		judge_failed_question(source, error);
}

/* The configuration has changed: a shorter interval holds at once. */
void
kappa_source_hasten_metadata(void)
{
	TimestampTz latest = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 kappa_metadata_interval);
	ListCell *lc;

	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);

		source->metadata_at = Min(source->metadata_at, latest);
	}
}

/* ---- fetching ---- */

/* Room for more messages; the array is as large as batches have been. */
static bool
make_room(KappaSource *source)
{
	if (source->nmessages >= kappa_batch_rows ||
		source->nbytes >= (Size) kappa_batch_bytes * 1024)
		return false;
	if (source->messages == NULL)
	{
		source->nallocated = FIRST_ALLOCATION;
		source->messages = MemoryContextAlloc(source->context,
											  source->nallocated * sizeof(KappaMessage));
	}
	else if (source->nmessages == source->nallocated)
	{
		source->nallocated *= 2;
		source->messages = repalloc_huge(source->messages,
										 source->nallocated * sizeof(KappaMessage));
	}
	return true;
}

static void
note_message(KappaSource *source, const KappaMessage *message)
{
	int p = message->partition;

	source->fetched[p] = message->offset + 1;
	source->end[p] = Max(source->end[p], source->fetched[p]);
	source->nbytes += message->key_len + message->value_len;
}

/*
 * The first EOF event is reason enough to store a position: that of a view
 * over an empty topic is symbolic otherwise, for ever.
 */
static void
note_eof(KappaSource *source, const KappaMessage *message)
{
	int p = message->partition;

	source->eof[p] = message->offset;
	source->end[p] = message->offset;
	source->unreported = true;
	source->advanced |= !source->settled;
	if (message->offset > source->fetched[p])
	{
		source->fetched[p] = message->offset;
		source->advanced = true;
	}
}

/*
 * Keep the data among the entries that a fetch has brought behind those in
 * hand, and note the rest.  Returns an error among them in *failed.
 */
static bool
sort_entries(KappaSource *source, int n, KappaMessage *failed)
{
	KappaMessage *entries = &source->messages[source->nmessages];
	KafkaClient *client = source->connection->client;
	bool has_failed = false;

	for (int i = 0; i < n; i++)
	{
		KappaMessage *entry = &entries[i];

		switch (entry->kind)
		{
			case KAPPA_MESSAGE_DATA:
				note_message(source, entry);
				source->messages[source->nmessages++] = *entry;
				break;
			case KAPPA_MESSAGE_EOF:
				note_eof(source, entry);
				kappa_kafka_release(client, entry, 1);
				break;
			case KAPPA_MESSAGE_ERROR:
				has_failed = true;
				*failed = *entry;
				kappa_kafka_release(client, entry, 1);
				break;
		}
	}
	return has_failed;
}

/*
 * librdkafka reports an error for a partition.  Start again: that tells an
 * offset that is gone, or a topic, from what has healed already.
 */
static void
handle_partition_error(KappaSource *source, const KappaMessage *entry)
{
	const KafkaErrorClass *class = kappa_kafka_error_class(entry->error);
	ErrorData error = {
		.sqlerrcode = class->sqlstate,
		.message = psprintf("could not read partition %d of topic \"%s\"",
							entry->partition, source->name),
		.detail = psprintf("librdkafka reported %s: %s.",
						   kappa_kafka_error_name(entry->error),
						   kappa_kafka_error_text(entry->error)),
		.hint = unconstify(char *, class->hint),
	};

	ereport(DEBUG1,
			(errmsg_internal("%s", error.message),
			 errdetail_internal("%s", error.detail)));
	note_trouble(source, &error, false);
}

static void
gather(KappaSource *source)
{
	KappaMessage failed;
	instr_time start;
	instr_time duration;

	INSTR_TIME_SET_CURRENT(start);
	while (source->readable && make_room(source))
	{
		int n = kappa_kafka_fetch(source->topic, &source->messages[source->nmessages],
								  Min(source->nallocated, kappa_batch_rows) - source->nmessages,
								  (Size) kappa_batch_bytes * 1024 - source->nbytes, 0);

		if (n == 0)
			source->readable = false;
		else if (sort_entries(source, n, &failed))
		{
			handle_partition_error(source, &failed);
			return;
		}
		else
			note_success(source);
	}
	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, start);
	source->fetch_us += INSTR_TIME_GET_MICROSEC(duration);
}

void
kappa_source_release(KappaSource *source)
{
	if (source->nmessages > 0)
		kappa_kafka_release(source->connection->client, source->messages, source->nmessages);
	source->nmessages = 0;
	source->nbytes = 0;
	source->fetch_us = 0;
}

bool
kappa_source_has_batch(KappaSource *source, TimestampTz now)
{
	if (!source->started)
		return false;
	if (source->nmessages > 0)
		return now >= source->next_batch_at ||
			source->nmessages >= kappa_batch_rows ||
			source->nbytes >= (Size) kappa_batch_bytes * 1024;
	if (source->advanced && now >= source->next_store_at)
		return true;
	return (source->advanced || !source->settled) && kappa_waiters_exist(source);
}

void
kappa_source_serve(KappaSource *source, TimestampTz now)
{
	if (source->stale && source->nmessages == 0 && now >= source->retry_at)
		start_source(source, now);
	if (!source->started)
		return;
	gather(source);
	if (source->unreported && source->nmessages == 0 && !source->advanced)
		kappa_source_report(source, false);
	if (source->started && source->metadata_at <= now)
		look_for_partitions(source, now);
	if (source->started && source->ends_at <= now &&
		(!kappa_source_at_end(source) || source->ask_failed) &&
		ask_ends(source, ask_ends_step))
		kappa_source_report(source, true);
}

/* ---- how it goes ---- */

bool
kappa_source_at_end(KappaSource *source)
{
	if (!source->started || source->nmessages > 0)
		return false;
	for (int p = 0; p < source->npartitions; p++)
		if (source->eof[p] < 0 || source->eof[p] != source->fetched[p])
			return false;
	return true;
}

int64
kappa_source_lag(KappaServed *served)
{
	KappaSource *source = served->source;
	int64 lag = 0;

	for (int p = 0; p < source->npartitions; p++)
		lag += Max(source->end[p] - served->applier->next_offset[p], 0);
	return lag;
}

/*
 * A view that is less than a batch behind is "running"; one that has become
 * so only a moment ago has to come a good deal closer, lest the state flaps.
 */
static KappaRunState
judge_state(KappaServed *served, int64 lag, bool ends_are_fresh)
{
	if (lag == 0)
		return KAPPA_RUN_RUNNING;
	if (served->state == KAPPA_RUN_RUNNING)
		return lag <= kappa_batch_rows ? KAPPA_RUN_RUNNING : KAPPA_RUN_CATCHING_UP;
	return ends_are_fresh && lag <= kappa_batch_rows / 10 ? KAPPA_RUN_RUNNING : KAPPA_RUN_CATCHING_UP;
}

/*
 * A view that failed by itself is well again when it is at the end of the log,
 * or has gone on for a minute.
 */
static bool
has_recovered(KappaServed *served, int64 lag)
{
	if (served->source->suspended)
		return false;
	return !served->failing || lag == 0 ||
		TimestampDifferenceExceeds(served->opened_at, GetCurrentTimestamp(), HEALTHY_MS);
}

static void
report_view(KappaServed *served, bool ends_are_fresh)
{
	KappaSource *source = served->source;
	int64 lag = kappa_source_lag(served);
	KappaRunState state = judge_state(served, lag, ends_are_fresh);

	kappa_shmem_view_publish(served->slot, source->npartitions,
							 source->end, source->last_timestamp);
	if (served->troubled && has_recovered(served, lag))
		kappa_worker_resume_view(served);
	if (!served->troubled && state != served->state)
	{
		kappa_shmem_view_set_state(served->slot, state);
		served->state = state;
	}
	if (has_seen_ends(source) || (ends_are_fresh && lag <= kappa_batch_rows))
		served->caught_up = true;
}

void
kappa_source_report(KappaSource *source, bool ends_are_fresh)
{
	ListCell *lc;

	source->unreported = false;
	foreach(lc, source->views)
	{
		KappaServed *served = lfirst(lc);

		if (served->log_set)
			report_view(served, ends_are_fresh);
	}
}

TimestampTz
kappa_source_next_moment(KappaSource *source)
{
	TimestampTz next;

	if (!source->started || (source->stale && source->nmessages == 0))
		return Max(source->retry_at, 1);
	next = source->metadata_at;
	if (source->nmessages > 0)
		next = kappa_earlier(next, Max(source->next_batch_at, 1));
	else if (source->advanced)
		next = kappa_earlier(next, Max(source->next_store_at, 1));
	if (!kappa_source_at_end(source) || source->ask_failed)
		next = kappa_earlier(next, source->ends_at);
	if (source->connection->down_since != 0)
		next = kappa_earlier(next, TimestampTzPlusMilliseconds(source->connection->down_since,
															   GRACE_MS + 1));
	if (source->connection->asker != NULL)
		next = kappa_earlier(next, TimestampTzPlusMilliseconds(source->connection->asker_used_at,
															   ASKER_IDLE_MS + 1));
	return next;
}
