/*-------------------------------------------------------------------------
 *
 * deliver.c
 *	  Apply the batch in hand to the views of a source
 *
 * All views of the source share one transaction, without a subtransaction for
 * each.  When one of them fails, the transaction is aborted, and the same
 * messages are applied again without it.  If a message may be at fault, it is
 * looked for then (blame.c), and the view gets the rest, in one transaction with
 * its other versions; otherwise the view leaves the worker.  An error that
 * cannot be laid to one view (deferred constraints are checked at the commit)
 * makes them take their turns in transactions of their own.
 *
 * Nothing here talks to the brokers.
 *
 * IDENTIFICATION
 *	  src/deliver.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "anchor.h"
#include "deadletter.h"
#include "deliver.h"
#include "fault.h"
#include "fdw_options.h"
#include "fetch.h"
#include "kappa.h"
#include "progress.h"
#include "rebuild.h"

/* Between two looks at kappa.last_message. */
#define LAST_MESSAGE_INTERVAL_MS 1000

/* Batches that a source may apply without a pause between them. */
#define SAVED_BATCHES 10

/* How often a position without messages is stored. */
#define STORE_INTERVAL_MS 1000

/* A fault of the view's table stops the view when it is met for so many times in a row. */
#define MAX_FAULTS 3

/* In so many pieces a batch is cut, and each of them again, whose messages fail together. */
#define PIECES 8

/* Letters with so much time between them are two events. */
#define LETTER_INTERVAL_MS 60000

/* The rows of a foreign table over the source's topic. */
typedef struct KappaSourceTable
{
	Oid relid;
	KappaBatchTable *table;
	bool loaded; /* with the batch in hand */
} KappaSourceTable;

/* One attempt to apply the batch in hand. */
typedef struct Delivery
{
	KappaSource *source;
	KappaBatch *batch;
	List *views;          /* of KappaServed */
	KappaServed *current; /* whose turn it is; NULL at the beginning and at the commit */
	bool storing;         /* its statements are done */
	instr_time commit_start;
	List *doubts;  /* of Doubt: views that were taken out, to be settled later */
	bool settling; /* they are being settled */
} Delivery;

/* A view whose turn has failed, perhaps because of a message. */
typedef struct Doubt
{
	List *versions; /* of KappaServed: they move together */
	KappaServed *failed;
	ErrorData *error;
	char *place;
} Doubt;

/* ---- decoding ---- */

void
kappa_deliver_forget_tables(KappaSource *source)
{
	MemoryContextReset(source->table_context);
	source->tables = NIL;
}

/* The columns of a foreign table that the views of a source read. */
static Bitmapset *
collect_columns(KappaSource *source, Oid relid)
{
	Bitmapset *columns = NULL;
	ListCell *lc;

	foreach(lc, source->views)
	{
		KappaApplier *applier = ((KappaServed *) lfirst(lc))->applier;

		if (applier->relid == relid)
			columns = bms_add_members(columns, applier->columns);
	}
	return columns;
}

/* Rows of the batch in hand for a foreign table, decoded when they are read. */
static KappaBatchTable *
get_table(Delivery *delivery, Oid relid)
{
	KappaSource *source = delivery->source;
	KappaSourceTable *entry = NULL;
	ListCell *lc;

	foreach(lc, source->tables)
		if (((KappaSourceTable *) lfirst(lc))->relid == relid)
			entry = lfirst(lc);
	if (entry == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(source->table_context);
		KappaBatchTable *table;

		table = kappa_batch_table_create(kappa_options_get_table(relid),
										 collect_columns(source, relid));
		entry = palloc0(sizeof(KappaSourceTable));
		entry->relid = relid;
		entry->table = table;
		source->tables = lappend(source->tables, entry);
		MemoryContextSwitchTo(old);
	}
	if (!entry->loaded)
		kappa_batch_table_load(entry->table, delivery->batch);
	entry->loaded = true;
	return entry->table;
}

static void
unload_tables(KappaSource *source)
{
	ListCell *lc;

	foreach(lc, source->tables)
		((KappaSourceTable *) lfirst(lc))->loaded = false;
}

/* ---- is it still the same log? ---- */

int64
kappa_deliver_checksum(const KappaMessage *message)
{
	pg_crc32c crc;

	INIT_CRC32C(crc);
	if (message->key != NULL)
		COMP_CRC32C(crc, message->key, message->key_len);
	if (message->value != NULL)
		COMP_CRC32C(crc, message->value, message->value_len);
	FIN_CRC32C(crc);
	return (int64) (uint32) crc;
}

static void
check_message(KappaServed *served, const KappaMessage *message)
{
	KappaLastMessage *check = served->check;
	int p = message->partition;
	int64 crc = kappa_deliver_checksum(message);

	if (message->timestamp == check->timestamp[p] && crc == check->crc[p])
		return;

	ereport(ERROR,
			(errcode(ERRCODE_KAPPA_STOP),
			 errmsg("the topic is not the one that this view was built from"),
			 errdetail("The message at offset " INT64_FORMAT " of partition %d of topic \"%s\" has timestamp " INT64_FORMAT " and checksum %08X; the one that view \"%s\" has applied had timestamp " INT64_FORMAT " and checksum %08X.",
					   message->offset, p, served->applier->topic,
					   message->timestamp, (unsigned int) crc, served->applier->name,
					   check->timestamp[p], (unsigned int) check->crc[p]),
			 errhint("The topic was probably deleted and created again, or lost messages.  Rebuild the view with kappa.rebuild().")));
}

/*
 * Compare the messages in hand with those that the view has applied last.  Its
 * partitions were started there.  A message that is not delivered was
 * compacted away, which says nothing.
 */
static void
check_log(Delivery *delivery, KappaServed *served)
{
	KappaLastMessage *check = served->check;

	for (int i = 0; i < delivery->batch->nmessages; i++)
	{
		KappaMessage *message = &delivery->batch->messages[i];

		if (message->partition < check->npartitions &&
			message->offset == check->offset[message->partition])
			check_message(served, message);
	}
}

/* After the commit: what has been passed need not be looked at again. */
static void
forget_checks(KappaSource *source, KappaServed *served)
{
	KappaLastMessage *check = served->check;
	bool open = false;

	for (int p = 0; p < Min(check->npartitions, source->npartitions); p++)
	{
		if (check->offset[p] < source->fetched[p])
			check->offset[p] = -1;
		open |= check->offset[p] >= 0;
	}
	if (open)
		return;
	pfree(check->offset);
	pfree(check->timestamp);
	pfree(check->crc);
	pfree(check);
	served->check = NULL;
}

/* ---- one view's turn ---- */

/* The number and size of the messages that a view has not got yet, and is to get. */
static uint64
count_new_messages(Delivery *delivery, KappaServed *served, uint64 *bytes)
{
	KappaBatch *batch = delivery->batch;
	const int64 *next = served->applier->next_offset;
	uint64 n = 0;

	*bytes = 0;
	for (int i = 0; i < batch->nmessages; i++)
	{
		KappaMessage *message = &batch->messages[i];

		if (message->offset < next[message->partition] ||
			bms_is_member(i, served->faults.excluded))
			continue;
		n++;
		*bytes += kappa_message_bytes(message);
	}
	return n;
}

static int64 *
advance_position(KappaSource *source, KappaServed *served)
{
	int n = served->applier->npartitions;
	int64 *next = palloc(Max(n, 1) * sizeof(int64));

	for (int p = 0; p < n; p++)
		next[p] = Max(served->applier->next_offset[p], source->fetched[p]);
	return next;
}

/*
 * Once a second is enough for kappa.last_message, and once more when there are
 * no new messages or the view leaves: what was applied after the message that is
 * recorded could be lost by the brokers, and replaced, without being missed.
 */
static bool
record_last_messages(KappaSource *source, KappaServed *served)
{
	if (!served->unrecorded && served->turn.messages + served->turn.letters == 0)
		return false;
	if (source->nmessages > 0 &&
		!TimestampDifferenceExceeds(served->recorded_at, GetCurrentTimestamp(),
									LAST_MESSAGE_INTERVAL_MS))
		return false;
	kappa_catalog_store_last_messages(served->view, served->version, source->name,
									  &source->last);
	return true;
}

/* Set messages aside.  The first ones of a burst are an event. */
static void
write_letters(Delivery *delivery, KappaServed *served)
{
	KappaMessage *messages = delivery->batch->messages;
	KappaApplier *applier = served->applier;
	KappaBadMessage *first;
	ListCell *lc;

	foreach(lc, served->faults.messages)
	{
		KappaBadMessage *bad = lfirst(lc);

		kappa_kafka_load_headers(delivery->source->connection->client, &messages[bad->message]);
		kappa_deadletter_insert(applier, &messages[bad->message], bad->error);
	}
	if (TimestampDifferenceExceeds(served->last_letter_at, GetCurrentTimestamp(),
								   LETTER_INTERVAL_MS))
	{
		first = linitial(served->faults.messages);
		kappa_catalog_add_event(served->view, "diverted", served->version,
								unpack_sql_state(first->error->sqlerrcode),
								psprintf("topic \"%s\", partition %d, offset " INT64_FORMAT ": %s",
										 applier->topic, messages[first->message].partition,
										 messages[first->message].offset, first->error->message));
	}
}

/* Apply the batch in hand, in pieces if it cannot be had as a whole. */
static uint64
apply_batch(Delivery *delivery, KappaServed *served)
{
	KappaBatchTable *bt = get_table(delivery, served->applier->relid);
	int64 n = delivery->batch->nmessages;
	int pieces = Max(served->pieces, 1);
	uint64 rows = 0;

	for (int i = 0; i < pieces; i++)
	{
		KappaBatchPart part = {
			.first = n * i / pieces,
			.last = n * (i + 1) / pieces,
			.excluded = served->faults.excluded,
		};

		rows += kappa_apply_batch(served->applier, bt, &part);
	}
	return rows;
}

static void
deliver_to_view(Delivery *delivery, KappaServed *served)
{
	KappaSource *source = delivery->source;
	KappaApplier *applier = served->applier;
	KappaTurn *turn = &served->turn;
	instr_time start;
	instr_time duration;

	INSTR_TIME_SET_CURRENT(start);
	delivery->current = served;
	delivery->storing = false;
	if (served->check != NULL)
		check_log(delivery, served);
	turn->messages = count_new_messages(delivery, served, &turn->bytes);
	turn->letters = list_length(served->faults.messages);
	turn->rows = 0;
	if (turn->messages > 0)
	{
		KAPPA_FAULT(BATCH_APPLYING, served->view);
		turn->rows = apply_batch(delivery, served);
		KAPPA_FAULT(BATCH_MERGED, served->view);
	}

	delivery->storing = true;
	if (turn->letters > 0)
		write_letters(delivery, served);
	kappa_apply_store_position(applier, advance_position(source, served));
	turn->recorded = record_last_messages(source, served);
	KAPPA_FAULT(BATCH_STORED, served->view);

	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, start);
	turn->apply_us = INSTR_TIME_GET_MICROSEC(duration);
}

static void
deliver_step(void *arg)
{
	Delivery *delivery = arg;
	ListCell *lc;

	delivery->current = NULL;
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "applying messages");
	kappa_worker_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, delivery->views)
		deliver_to_view(delivery, lfirst(lc));
	PopActiveSnapshot();
	delivery->current = NULL;
	INSTR_TIME_SET_CURRENT(delivery->commit_start);
	KAPPA_FAULT(BATCH_COMMITTING, InvalidOid);
	CommitTransactionCommand();
}

/* ---- before and after ---- */

/* Remember the last message of each partition in hand. */
static void
note_last_messages(KappaSource *source)
{
	for (int i = source->nmessages - 1; i >= 0; i--)
	{
		KappaMessage *message = &source->messages[i];
		int p = message->partition;

		if (message->offset <= source->last.offset[p])
			continue;
		source->last.offset[p] = message->offset;
		source->last.timestamp[p] = message->timestamp;
		source->last.crc[p] = kappa_deliver_checksum(message);
		kappa_anchor_propose(source, p);
	}
}

/* The transaction has committed. */
static void
note_delivered(Delivery *delivery)
{
	int n = list_length(delivery->views);
	uint64 fetch_us = delivery->source->fetch_us;
	uint64 commit_us;
	instr_time duration;
	ListCell *lc;

	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, delivery->commit_start);
	commit_us = INSTR_TIME_GET_MICROSEC(duration);
	foreach(lc, delivery->views)
	{
		KappaServed *served = lfirst(lc);
		KappaCounters *counters = kappa_shmem_view_counters(served->slot);

		kappa_apply_committed(served->applier);
		kappa_blame_note(&served->budget, served->turn.messages + served->turn.letters,
						 served->turn.letters);
		if (served->turn.letters > 0)
			served->last_letter_at = GetCurrentTimestamp();
		if (served->check != NULL)
			forget_checks(delivery->source, served);
		served->unrecorded |= served->turn.messages + served->turn.letters > 0;
		if (served->turn.recorded)
		{
			served->recorded_at = GetCurrentTimestamp();
			served->unrecorded = false;
		}
		delivery->source->unrecorded |= served->unrecorded;

		/* Time that the views share is divided among them. */
		pg_atomic_fetch_add_u64(&counters->messages, served->turn.messages);
		pg_atomic_fetch_add_u64(&counters->bytes, served->turn.bytes);
		pg_atomic_fetch_add_u64(&counters->rows, served->turn.rows);
		pg_atomic_fetch_add_u64(&counters->apply_us, served->turn.apply_us);
		pg_atomic_fetch_add_u64(&counters->letters, served->turn.letters);
		pg_atomic_fetch_add_u64(&counters->batches, served->turn.messages > 0);
		pg_atomic_fetch_add_u64(&counters->fetch_us, fetch_us / n);
		pg_atomic_fetch_add_u64(&counters->commit_us, commit_us / n);
	}
}

/* Where in the log a view has failed, for the reason that people see. */
static char *
describe_place(Delivery *delivery)
{
	KappaSource *source = delivery->source;
	bool reading;
	int i = kappa_batch_current(&reading);

	if (source->nmessages == 0 || delivery->storing)
		return NULL;
	if (i >= 0 && i < source->nmessages)
		return psprintf("topic \"%s\", partition %d, near offset " INT64_FORMAT,
						source->name, source->messages[i].partition,
						source->messages[i].offset);
	return psprintf("topic \"%s\", partition %d, from offset " INT64_FORMAT " on",
					source->name, source->messages[0].partition,
					source->messages[0].offset);
}

/* Take a view out, with its other versions: they must go on standing together. */
static List *
take_versions(Delivery *delivery, Oid view)
{
	List *views = delivery->views;
	List *versions = NIL;
	ListCell *lc;

	delivery->views = NIL;
	foreach(lc, views)
	{
		KappaServed *served = lfirst(lc);

		if (served->view == view)
			versions = lappend(versions, served);
		else
			delivery->views = lappend(delivery->views, served);
	}
	return versions;
}

/*
 * Take the culprit out of a failed delivery.  That somebody else has moved the
 * position (kappa.seek_view does) or renamed a table is no failure: the view is
 * opened anew, and reads from there.
 */
static void
leave_out(Delivery *delivery, KappaServed *served, ErrorData *error, char *place)
{
	if (delivery->current == served &&
		(served->applier->outdated ||
		 (delivery->storing && error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE)))
	{
		(void) take_versions(delivery, served->view);
		kappa_worker_reload(served->view);
	}
	else
	{
		delivery->views = list_delete_ptr(delivery->views, served);
		kappa_worker_fail_view(served, error, place);
	}
}

/* ---- whose fault is it? ---- */

static void
take_out(Delivery *delivery, KappaServed *failed, ErrorData *error, char *place)
{
	Doubt *doubt = palloc0(sizeof(Doubt));

	doubt->failed = failed;
	doubt->error = error;
	doubt->place = place;
	doubt->versions = take_versions(delivery, failed->view);
	delivery->doubts = lappend(delivery->doubts, doubt);
}

typedef struct TransactionStep
{
	void (*step)(void *arg);
	void *arg;
} TransactionStep;

static void
transaction_step(void *arg)
{
	TransactionStep *transaction = arg;

	SetCurrentStatementStartTimestamp();
	kappa_worker_begin();
	transaction->step(transaction->arg);
	AbortCurrentTransaction();
}

static ErrorData *
attempt_and_undo(void (*step)(void *arg), void *arg)
{
	TransactionStep transaction = { step, arg };

	return kappa_worker_attempt(transaction_step, &transaction);
}

typedef struct InquiryStep
{
	Delivery *delivery;
	KappaServed *served;
	KappaBatchTable *bt;
} InquiryStep;

static void
begin_inquiry_step(void *arg)
{
	InquiryStep *step = arg;
	KappaApplier *applier = step->served->applier;
	KappaBudget *budget = &step->served->budget;

	step->bt = get_table(step->delivery, applier->relid);
	budget->letters = kappa_deadletter_count(applier->view, applier->version);
	kappa_catalog_get_limits(applier->view, &budget->limits);
	budget->read = 0;
	for (int p = 0; p < applier->npartitions; p++)
		budget->read += applier->next_offset[p] - applier->start_offset[p];
}

/*
 * Messages that only fail together (the sum of a batch overflows, where another one
 * was before or comes behind) can be applied in smaller pieces, or one by one.
 * False if there is no smaller one.  Of a changelog a piece would have messages
 * that others behind it replace, and no two of its messages make one row.
 */
static bool
cut_smaller(Delivery *delivery, KappaServed *served)
{
	int n = delivery->batch->nmessages;

	if (served->applier->changelog || served->pieces >= n)
		return false;
	served->pieces = Min((int64) Max(served->pieces, 1) * PIECES, n);
	return true;
}

/*
 * What the view's table does not take may be mended by a person who does not
 * know of it yet; but not for ever, and nothing may be passed over.  What is out
 * of the way by the time that it is looked for is only tried again.
 */
static ErrorData *
judge_fault(Delivery *delivery, KappaServed *served, KappaInquiry *inquiry, ErrorData *error)
{
	const KappaMessage *message;
	ErrorData *stop;
	int first;

	if (kappa_shmem_view_count_fault(served->slot, error->sqlerrcode, error->message) < MAX_FAULTS)
		return error;
	first = kappa_blame_find_merge(inquiry);
	if (first == inquiry->nmessages)
		return error;
	message = &delivery->batch->messages[Max(first, 0)];
	stop = palloc(sizeof(ErrorData));
	*stop = *error;
	stop->sqlerrcode = ERRCODE_KAPPA_STOP;
	stop->detail = psprintf("%s%sIt was tried %d times, topic \"%s\", partition %d, %s offset " INT64_FORMAT ".",
							error->detail == NULL ? "" : error->detail,
							error->detail == NULL ? "" : "  ", MAX_FAULTS,
							served->applier->topic, message->partition,
							first < 0 ? "from" : "at", message->offset);
	stop->hint = pstrdup("The messages are good, but the view's table does not take what they lead to.  Remove what is in the way, and call kappa.resume_view().");
	return stop;
}

/* Find out why a view has failed.  It remains if that can be left out. */
static void
inquire(Delivery *delivery, KappaServed *served, ErrorData *error, char *place)
{
	InquiryStep step = { .delivery = delivery, .served = served };
	KappaInquiry inquiry = {
		.applier = served->applier,
		.nmessages = delivery->batch->nmessages,
		.faults = &served->faults,
		.budget = &served->budget,
		.attempt = attempt_and_undo,
		.singly = served->pieces > 0 && served->pieces >= delivery->batch->nmessages,
	};
	ErrorData *trouble = attempt_and_undo(begin_inquiry_step, &step);

	if (trouble != NULL)
	{
		leave_out(delivery, served, trouble, place);
		return;
	}
	inquiry.bt = step.bt;
	switch (kappa_blame_find(&inquiry))
	{
		case KAPPA_BLAME_MESSAGES:
			break;
		case KAPPA_BLAME_MERGE:
			if (!inquiry.together || !cut_smaller(delivery, served))
				leave_out(delivery, served, judge_fault(delivery, served, &inquiry, error), place);
			break;
		case KAPPA_BLAME_OTHERS:
		case KAPPA_BLAME_SPENT:
			leave_out(delivery, served, inquiry.error, place);
			break;
	}
}

/* May a message be what a view's turn has failed over? */
static bool
may_be_message(Delivery *delivery, KappaServed *served, const ErrorData *error)
{
	return delivery->current == served && !delivery->storing && served->turn.messages > 0 &&
		   !served->applier->outdated && !kappa_blame_is_plain(error->sqlerrcode);
}

/*
 * Deliver to some of the views.  False if it failed and nobody knows through
 * whom.
 */
static bool
try_delivery(Delivery *delivery)
{
	while (delivery->views != NIL)
	{
		ErrorData *error = kappa_worker_attempt(deliver_step, delivery);
		KappaServed *culprit = delivery->current;
		char *place;

		if (error == NULL)
		{
			KAPPA_FAULT(BATCH_COMMITTED, InvalidOid);
			note_delivered(delivery);
			return true;
		}

		/* The decoded rows went with the transaction, or are doubtful. */
		unload_tables(delivery->source);
		place = describe_place(delivery);
		if (culprit == NULL && list_length(delivery->views) > 1)
			return false;
		if (culprit == NULL)
			culprit = linitial(delivery->views);
		if (!may_be_message(delivery, culprit, error))
			leave_out(delivery, culprit, error, place);
		else if (delivery->settling)
			inquire(delivery, culprit, error, place);
		else
			take_out(delivery, culprit, error, place);
	}
	return true;
}

/*
 * Everyone in a transaction of his own.  Between those of two versions of a view
 * somebody may take a snapshot that sees only one of them move.
 */
static void
deliver_one_by_one(Delivery *delivery)
{
	List *views = list_copy(delivery->views);
	ListCell *lc;

	foreach(lc, views)
	{
		Oid view = ((KappaServed *) lfirst(lc))->view;

		delivery->views = list_make1(lfirst(lc));
		(void) try_delivery(delivery);
		kappa_rebuild_forget(view);
	}
}

/* The others have what they were to get: now for those who made trouble. */
static void
settle_doubts(Delivery *delivery)
{
	ListCell *lc;

	delivery->settling = true;
	foreach(lc, delivery->doubts)
	{
		Doubt *doubt = lfirst(lc);

		delivery->views = doubt->versions;
		inquire(delivery, doubt->failed, doubt->error, doubt->place);
		if (!try_delivery(delivery))
			deliver_one_by_one(delivery);
	}
}

/*
 * kappa.batch_interval holds on average: a source at the end of its log may
 * save up some turns, so that messages that come about as often as batches may
 * be applied do not wait for one another.  A limited view saves nothing up.
 */
static void
pace_batches(KappaSource *source, TimestampTz now)
{
	TimestampTz earliest = now;

	if (source->nmessages == 0)
		return;
	if (source->message_rate > 0)
	{
		source->next_batch_at = Max(source->next_batch_at, now) +
								source->nmessages * USECS_PER_SEC / source->message_rate;
		return;
	}
	if (kappa_source_has_seen_ends(source))
		earliest = TimestampTzPlusMilliseconds(now, -SAVED_BATCHES * kappa_batch_interval);
	source->next_batch_at = TimestampTzPlusMilliseconds(Max(source->next_batch_at, earliest),
														kappa_batch_interval);
}

void
kappa_deliver(KappaSource *source)
{
	MemoryContext decoded = AllocSetContextCreate(KappaRoundContext, "kappa batch",
												  ALLOCSET_DEFAULT_SIZES);
	KappaBatch batch = {
		.context = decoded,
		.nmessages = source->nmessages,
		.messages = source->messages,
	};
	Delivery delivery = { .source = source, .batch = &batch };
	TimestampTz now = GetCurrentTimestamp();
	ListCell *lc;

	KAPPA_FAULT(BATCH_FETCHED, InvalidOid);
	pace_batches(source, now);
	source->unrecorded = false;
	source->next_store_at = TimestampTzPlusMilliseconds(now, STORE_INTERVAL_MS);
	note_last_messages(source);
	foreach(lc, source->views)
		if (((KappaServed *) lfirst(lc))->log_set && !((KappaServed *) lfirst(lc))->reload)
			delivery.views = lappend(delivery.views, lfirst(lc));
	if (!try_delivery(&delivery))
		deliver_one_by_one(&delivery);
	settle_doubts(&delivery);

	foreach(lc, source->views)
	{
		KappaServed *served = lfirst(lc);

		served->faults = (KappaFaults){ 0 };
		served->pieces = 0;
	}
	unload_tables(source);
	kappa_fetch_release(source);
	source->advanced = false;
	source->settled = true;
	source->delivered = true;
	MemoryContextDelete(decoded);
	pgstat_report_activity(STATE_IDLE, NULL);
	kappa_progress_report(source, false);
}
