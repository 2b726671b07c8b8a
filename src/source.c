/*-------------------------------------------------------------------------
 *
 * source.c
 *	  What a worker reads: topics, through the connections of views' owners
 *
 * A source is one topic, fetched once for all views of the worker that read it
 * with the same owner's credentials.  It is started at the smallest position
 * of its views; those that are further skip what they have.  A view whose rate
 * is limited has a source of its own, so that nobody waits with it.
 *
 * Trouble with the brokers is never an error of the process or of a view: the
 * source stops fetching, its views are shown as retrying with the reason, and
 * it is started again after a delay, from the positions of the views.  All
 * questions to the brokers are asked from here and from ask.c, outside any
 * transaction.
 *
 * IDENTIFICATION
 *	  src/source.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "anchor.h"
#include "ask.h"
#include "deliver.h"
#include "fetch.h"
#include "kafka_admin.h"
#include "kappa.h"
#include "progress.h"
#include "source.h"
#include "waiters.h"

/* The longest delay before the brokers are tried again. */
#define MAX_RETRY_DELAY_MS 5000

List *kappa_sources = NIL;

/* ---- starting and stopping ---- */

/* Stop fetching; it must be told anew how the log stands. */
static void
stop_source(KappaSource *source)
{
	ListCell *lc;

	kappa_fetch_release(source);
	if (source->topic != NULL)
		kappa_kafka_stop_all(source->topic);
	for (int p = 0; p < source->npartitions; p++)
		source->fetched[p] = source->eof[p] = source->broker[p] = -1;
	bms_free(source->broken);
	bms_free(source->moved);
	bms_free(source->leaderless);
	source->broken = source->moved = source->leaderless = NULL;
	source->headless = false;
	source->failing_since = 0;
	source->unanswered_since = 0;
	source->started = false;
	source->stale = true;
	source->readable = false;
	source->advanced = false;
	foreach(lc, source->views)
		((KappaServed *) lfirst(lc))->log_set = false;
}

/* Close a connection; its sources start again with a new one. */
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
	kappa_connection_close(connection);
}

void
kappa_source_reread_connections(void)
{
	List *all = list_copy(kappa_connections);
	ListCell *lc;

	/* One whose options cannot be read is closed, too, and says why then. */
	foreach(lc, all)
		if (kappa_connection_has_changed(lfirst(lc)))
			close_connection(lfirst(lc));

	/* A new mapping may be what a source has been waiting for. */
	foreach(lc, kappa_sources)
		if (!((KappaSource *) lfirst(lc))->started)
			((KappaSource *) lfirst(lc))->retry_at = 0;
}

void
kappa_source_note_readable(KappaConnection *connection)
{
	ListCell *lc;

	kappa_kafka_drain(connection->client);
	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);

		if (source->connection == connection && source->started)
			source->readable = true;
	}
}

/* ---- trouble ---- */

/* Make an array longer; new elements are -1. */
static int64 *
extend_array(int64 *array, int old, int new)
{
	array = array == NULL ? palloc(new * sizeof(int64)) : repalloc(array, new * sizeof(int64));
	for (int i = old; i < new; i++)
		array[i] = -1;
	return array;
}

static void
extend_messages(KappaLastMessage *messages, int n)
{
	if (messages->npartitions >= n)
		return;
	messages->offset = extend_array(messages->offset, messages->npartitions, n);
	messages->timestamp = extend_array(messages->timestamp, messages->npartitions, n);
	messages->crc = extend_array(messages->crc, messages->npartitions, n);
	messages->npartitions = n;
}

void
kappa_source_copy_message(KappaLastMessage *to, const KappaLastMessage *from, int partition)
{
	to->offset[partition] = from->offset[partition];
	to->timestamp[partition] = from->timestamp[partition];
	to->crc[partition] = from->crc[partition];
}

/* What a view is to compare, with room for all partitions. */
static KappaLastMessage *
get_check(KappaSource *source, KappaServed *served)
{
	KappaLastMessage *check = served->check;
	MemoryContext old = MemoryContextSwitchTo(served->context);

	if (check == NULL)
		served->check = check = palloc0(sizeof(KappaLastMessage));
	extend_messages(check, source->npartitions);
	MemoryContextSwitchTo(old);
	return check;
}

/*
 * When partitions are started again, the last messages must still be there: the
 * topic may have been deleted and made again meanwhile.  What is still to be
 * compared remains so: nothing behind it was applied.
 */
static void
check_again(KappaSource *source, KappaServed *served, const Bitmapset *partitions)
{
	KappaLastMessage *check;

	if (bms_is_empty(partitions))
		return;
	check = get_check(source, served);
	for (int p = -1; (p = bms_next_member(partitions, p)) >= 0;)
	{
		if (check->offset[p] < 0)
			kappa_source_copy_message(check, &source->last, p);
	}
}

static void
compare_again(KappaSource *source)
{
	Bitmapset *all = bms_add_range(NULL, 0, source->npartitions - 1);
	ListCell *lc;

	stop_source(source);
	source->retry_at = 0;
	foreach(lc, source->views)
		check_again(source, lfirst(lc), all);
	bms_free(all);
}

/* The last messages may be another topic's already; the anchor is not. */
void
kappa_source_compare_anchor(KappaSource *source, int partition)
{
	ListCell *lc;

	foreach(lc, source->views)
		kappa_source_copy_message(get_check(source, lfirst(lc)), &source->anchor, partition);
	compare_again(source);
}

void
kappa_source_note_trouble(KappaSource *source, const ErrorData *error, bool shown)
{
	TimestampTz now = GetCurrentTimestamp();
	int64 delay = 0;
	ListCell *lc;

	if (source->trouble_at == 0 ||
		TimestampDifferenceExceeds(source->trouble_at, now, KAPPA_HEALTHY_MS))
		source->failures = 0;
	source->failures++;
	source->trouble_at = now;
	if (shown || source->failures > 1)
		delay = kappa_shmem_retry_delay(source->failures,
										Min(kappa_retry_max_delay, MAX_RETRY_DELAY_MS));
	compare_again(source);
	source->retry_at = TimestampTzPlusMilliseconds(now, delay);
	if (!shown && !source->suspended)
		return;
	source->suspended = true;
	foreach(lc, source->views)
		kappa_worker_suspend_view(lfirst(lc), error, source->retry_at);
}

void
kappa_source_note_broker_trouble(KappaSource *source, const ErrorData *error)
{
	KappaConnection *connection = source->connection;
	ListCell *lc;

	if (connection != NULL && kappa_connection_is_down(connection) &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION)
	{
		connection->down_since = 0;
		foreach(lc, kappa_sources)
		{
			KappaSource *other = lfirst(lc);
			ErrorData same = *error;

			if (other == source || other->connection != connection)
				continue;
			same.message = psprintf("could not read topic \"%s\"", other->name);
			kappa_source_note_trouble(other, &same, true);
		}
	}
	kappa_source_note_trouble(source, error, true);
}

void
kappa_source_note_success(KappaSource *source)
{
	KappaBreak *last = &source->last_break;
	ListCell *lc;

	source->connection->down_since = 0;
	if (source->headless)
		return;
	if (last->error != 0 && last->partition >= 0 &&
		source->fetched[last->partition] <= last->offset)
		return;
	last->error = 0;
	if (!source->suspended)
		return;
	source->suspended = false;
	foreach(lc, source->views)
		if (!((KappaServed *) lfirst(lc))->failing)
			kappa_worker_resume_view(lfirst(lc));
}

/* ---- sources and their views ---- */

static KappaSource *
create_source(Oid serverid, Oid owner, Oid limited, const char *name)
{
	MemoryContext context = AllocSetContextCreate(KappaWorkerContext, "kappa source",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	KappaSource *source = palloc0(sizeof(KappaSource));

	source->context = context;
	source->serverid = serverid;
	source->owner = owner;
	source->limited = limited;
	source->name = pstrdup(name);
	source->table_context = AllocSetContextCreate(context, "kappa decoders",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(KappaWorkerContext);
	kappa_sources = lappend(kappa_sources, source);
	MemoryContextSwitchTo(old);
	return source;
}

static KappaSource *
get_source(Oid serverid, Oid owner, Oid limited, const char *name)
{
	ListCell *lc;

	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);

		if (source->serverid == serverid && source->owner == owner &&
			source->limited == limited && strcmp(source->name, name) == 0)
			return source;
	}
	return create_source(serverid, owner, limited, name);
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
	Oid limited = applier->message_rate > 0 ? applier->view : InvalidOid;
	KappaSource *source = get_source(applier->serverid, applier->owner, limited, applier->topic);
	MemoryContext old = MemoryContextSwitchTo(source->context);

	Assert(source->nmessages == 0);
	source->message_rate = applier->message_rate;
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
	all = list_copy(kappa_connections);
	foreach(lc, all)
		if (!is_used(lfirst(lc)))
			kappa_connection_close(lfirst(lc));
	list_free(all);
}

/* ---- how the log stands ---- */

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
		source->broker = extend_array(source->broker, source->npartitions, n);
		extend_messages(&source->last, n);
		extend_messages(&source->anchor, n);
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

/* Find or open the connection of a source; throws. */
static KappaConnection *
get_connection(KappaSource *source)
{
	KappaConnection *connection = kappa_connection_find(source->serverid, source->owner,
														source->limited);
	bool with_headers = needs_headers(source);

	if (connection != NULL && (connection->with_headers || !with_headers))
		return connection;
	if (connection != NULL)
		close_connection(connection);
	return kappa_connection_open(source->serverid, source->owner, source->limited, with_headers);
}

/* Connect, and ask what any broker can answer; throws. */
static void
ask_partitions_step(void *arg)
{
	KappaSource *source = arg;
	KappaConnection *connection = get_connection(source);
	Bitmapset *leaderless;

	source->connection = connection;
	source->topic = kappa_kafka_topic(connection->client, source->name);
	set_partition_count(source,
						kappa_kafka_partition_count(kappa_ask_topic(source), &leaderless));
	kappa_ask_note_leaderless(source, leaderless);
}

/* Ask all leaders; throws. */
static void
ask_bounds_step(void *arg)
{
	KappaSource *source = arg;

	kappa_kafka_watermarks(kappa_ask_topic(source), source->npartitions, source->begin,
						   source->end);
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
		SetLogStep step = { .served = lfirst(lc), .source = source };
		ErrorData *error = kappa_worker_attempt(set_log_step, &step);

		if (error != NULL)
			kappa_worker_fail_view(step.served, error, NULL);
	}
}

/* Whether a view has been sought past what could not be read behind an offset. */
static bool
leads_past_break(KappaSource *source, int partition, int64 offset, int64 next)
{
	const KappaBreak *last = &source->last_break;

	return last->error != 0 && last->partition == partition &&
		   offset < last->offset && last->offset < next;
}

/*
 * Where to start a partition: at the smallest next offset of the views, or at
 * a message before it that has to be looked at again, unless what lies between
 * cannot be read.
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
			check->offset[partition] >= source->begin[partition] &&
			!leads_past_break(source, partition, check->offset[partition], offset))
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

void
kappa_source_note_moved(KappaSource *source, const Bitmapset *partitions)
{
	MemoryContext old;

	if (bms_is_empty(partitions))
		return;
	old = MemoryContextSwitchTo(source->context);
	source->moved = bms_add_members(source->moved, partitions);
	MemoryContextSwitchTo(old);
}

void
kappa_source_compare_moved(KappaSource *source)
{
	ErrorData *error;
	ListCell *lc;

	Assert(source->nmessages == 0);
	foreach(lc, source->views)
		check_again(source, lfirst(lc), source->moved);
	for (int p = -1; (p = bms_next_member(source->moved, p)) >= 0;)
		source->fetched[p] = source->eof[p] = source->broker[p] = -1;
	bms_free(source->moved);
	source->moved = NULL;
	error = kappa_worker_attempt(start_partitions_step, source);
	if (error != NULL)
		kappa_source_note_trouble(source, error, true);
}

/* A view's record of its last messages serves as the source's until there are newer ones. */
static void
take_last_messages(KappaSource *source, KappaServed *served)
{
	KappaLastMessage *check = served->check;

	for (int p = 0; check != NULL && p < Min(check->npartitions, source->npartitions); p++)
	{
		if (check->offset[p] <= source->last.offset[p])
			continue;
		kappa_source_copy_message(&source->last, check, p);
		kappa_anchor_propose(source, p);
	}
}

/*
 * Where nothing was left to read when the brokers were asked a moment ago, no
 * event needs to tell: it would come only with the answer to a fetch that has
 * waited in vain.
 */
static void
note_ends(KappaSource *source)
{
	for (int p = 0; p < source->npartitions; p++)
		if (source->eof[p] < 0 && source->fetched[p] >= source->end[p])
			source->eof[p] = source->fetched[p];
}

static void
start_source(KappaSource *source, TimestampTz now)
{
	ErrorData *error;
	ListCell *lc;

	/* Messages in hand are read again, from where the views are. */
	kappa_fetch_release(source);
	source->advanced = false;
	source->retry_at = 0;
	error = kappa_ask_attempt(ask_partitions_step, source);
	if (error != NULL)
	{
		kappa_source_note_broker_trouble(source, error);
		return;
	}
	if (!bms_is_empty(source->leaderless))
	{
		ErrorData leaderless = kappa_ask_describe_leaderless(source, "To begin, all partitions are needed.");

		kappa_source_note_trouble(source, &leaderless, true);
		return;
	}
	error = kappa_ask_attempt(ask_bounds_step, source);
	if (error == NULL)
	{
		set_log(source);
		if (source->views == NIL)
			return;
		error = kappa_worker_attempt(start_partitions_step, source);
	}
	if (error != NULL)
	{
		kappa_source_note_trouble(source, error, true);
		return;
	}
	foreach(lc, source->views)
		take_last_messages(source, lfirst(lc));
	note_ends(source);
	source->started = true;
	source->stale = false;
	source->settled = false;
	source->advanced = kappa_source_has_seen_ends(source);
	source->readable = true;
	source->metadata_at = TimestampTzPlusMilliseconds(now, kappa_metadata_interval);
	source->ends_at = TimestampTzPlusMilliseconds(now, KAPPA_ENDS_INTERVAL_MS);
	kappa_progress_report(source, true);
}

/* ---- the loop's part ---- */

/* Of a limited view, no more than a second's. */
int
kappa_source_max_messages(const KappaSource *source)
{
	return source->message_rate > 0 ? Min(kappa_batch_rows, source->message_rate)
									: kappa_batch_rows;
}

bool
kappa_source_has_room(const KappaSource *source)
{
	return source->nmessages < kappa_source_max_messages(source) &&
		   source->nbytes < (Size) kappa_batch_bytes * 1024;
}

bool
kappa_source_has_batch(KappaSource *source, TimestampTz now)
{
	if (!source->started)
		return false;
	if (source->nmessages > 0)
		return now >= source->next_batch_at || source->broken != NULL || source->moved != NULL ||
			   (source->message_rate == 0 && !kappa_source_has_room(source));
	if ((source->advanced || source->unrecorded) && now >= source->next_store_at)
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
	kappa_fetch_gather(source);
	if (source->unreported && source->nmessages == 0 && !source->advanced)
		kappa_progress_report(source, false);
	if (source->started && source->metadata_at <= now)
		kappa_ask_about_topic(source, now);
	if (source->started && source->ends_at <= now && bms_is_empty(source->leaderless) &&
		(!kappa_source_at_end(source) || source->ask_failed) &&
		kappa_ask_ends(source))
		kappa_progress_report(source, true);
}

/* ---- how it goes ---- */

bool
kappa_source_has_seen_ends(KappaSource *source)
{
	for (int p = 0; p < source->npartitions; p++)
		if (source->eof[p] < 0)
			return false;
	return true;
}

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

TimestampTz
kappa_source_next_moment(KappaSource *source)
{
	TimestampTz next;

	if (!source->started || (source->stale && source->nmessages == 0))
		return Max(source->retry_at, 1);
	if (source->moved != NULL)
		return 1;
	next = source->metadata_at;
	if (source->nmessages > 0)
		next = kappa_earlier(next, Max(source->next_batch_at, 1));
	else if (source->advanced || source->unrecorded)
		next = kappa_earlier(next, Max(source->next_store_at, 1));
	if (!kappa_source_at_end(source) || source->ask_failed)
		next = kappa_earlier(next, source->ends_at);
	return kappa_earlier(next, kappa_connection_next_moment(source->connection));
}
