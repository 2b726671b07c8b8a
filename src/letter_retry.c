/*-------------------------------------------------------------------------
 *
 * letter_retry.c
 *	  Apply dead letters, after what was wrong has been mended
 *
 * Letters are a batch like any other, only that its messages lie behind the
 * view's position: the delta and the merge are the same, and what still fails
 * is found in the same way (blame.c).  Rows and letters change in one
 * transaction, so each is applied once.
 *
 * Nothing else may write a view's tables meanwhile.  The lock that sees to it
 * keeps messages waiting, and nobody who reads.
 *
 * An aggregate takes a message whenever it comes, and DISTINCT ON compares
 * places in the log, and so does a changelog that is ordered by timestamp.  Of
 * any other changelog the last message counts, and the view does not say where
 * in the log a row of it comes from.  So the log is read from the letters on,
 * and the last message of each of their keys is applied with them: it is the
 * one that counts, if there is one.
 *
 * IDENTIFICATION
 *	  src/letter_retry.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "blame.h"
#include "deadletter.h"
#include "fdw_options.h"
#include "guard.h"
#include "letter_log.h"
#include "view_commands.h"

PG_FUNCTION_INFO_V1(kappa_sql_retry_dead_letters);

/* Messages of the log that are looked through at once for keys. */
#define CHUNK_MESSAGES 10000
#define CHUNK_BYTES (16 * 1024 * 1024)

/* Some of the letters of a version; lives in a context of its own. */
typedef struct Retry
{
	KappaApplier *applier;
	const KappaTable *table;
	int nletters;
	KappaDeadLetter *letters;
	KappaFaults faults; /* letters that fail again */

	/* The letters, and of a changelog messages behind them. */
	int nmessages;
	KappaMessage *messages;

	/* While the log is read. */
	KappaLetterLog *log;
	List *gaps;            /* of KappaGap: what the version has passed over */
	MemoryContext context; /* of the messages behind the letters */
	Size bytes;
} Retry;

/* ---- running parts of it ---- */

/* What a failed statement of a view leaves behind in the process. */
static void
clean_up(void)
{
	kappa_batch_unbind_all();
	kappa_guard_permit(InvalidOid);
	kappa_apply_current = NULL;
}

/* For kappa_blame_find(): in a subtransaction. */
static ErrorData *
attempt_and_undo(void (*step)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		step(arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	clean_up();
	return error;
}

/* The messages as a batch that is decoded anew, in CurrentMemoryContext. */
static KappaBatchTable *
load_batch(Retry *retry)
{
	KappaBatch *batch = palloc(sizeof(KappaBatch));
	KappaBatchTable *bt = kappa_batch_table_create(retry->table, retry->applier->columns);

	batch->context = CurrentMemoryContext;
	batch->nmessages = retry->nmessages;
	batch->messages = retry->messages;
	kappa_batch_table_load(bt, batch);
	return bt;
}

static void
add_fault(Retry *retry, int letter, ErrorData *error)
{
	KappaBadMessage *bad = palloc(sizeof(KappaBadMessage));

	bad->message = letter;
	bad->error = error;
	retry->faults.messages = lappend(retry->faults.messages, bad);
	retry->faults.excluded = bms_add_member(retry->faults.excluded, letter);
}

/* Does the view not know which message of a key is the latest? */
static bool
needs_later_messages(const Retry *retry)
{
	return retry->applier->changelog && retry->table->key_order == KAPPA_KEY_ORDER_OFFSET;
}

/* ---- what the log has ---- */

static KappaLetterLog *
get_log(Retry *retry)
{
	if (retry->log == NULL)
		retry->log = kappa_letter_log_open(retry->applier);
	return retry->log;
}

/* The log does not have any more what a letter needs. */
static void
add_missing(Retry *retry, int letter)
{
	const KappaMessage *message = &retry->letters[letter].message;
	ErrorData *error = palloc0(sizeof(ErrorData));

	error->elevel = ERROR;
	error->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	error->message = psprintf("offset " INT64_FORMAT " of partition %d is not in the log any more",
							  message->offset, message->partition);
	error->detail = needs_later_messages(retry) && retry->letters[letter].complete
						? pstrdup("Whether a later message has replaced this one cannot be known.")
						: pstrdup("The dead letter has only the beginning of the message.");
	add_fault(retry, letter, error);
}

static void
complete_letter(const KappaMessage *message, void *arg)
{
	Retry *retry = arg;

	for (int i = 0; i < retry->nletters; i++)
	{
		KappaDeadLetter *letter = &retry->letters[i];

		if (letter->message.partition != message->partition ||
			letter->message.offset != message->offset)
			continue;
		kappa_letter_log_copy(&letter->message, message);
		letter->complete = true;
	}
}

/* Read again what was too long to be kept. */
static void
complete_letters(Retry *retry)
{
	KappaRange *ranges = palloc(retry->nletters * sizeof(KappaRange));
	int n = 0;

	for (int i = 0; i < retry->nletters; i++)
	{
		const KappaMessage *message = &retry->letters[i].message;

		if (!retry->letters[i].complete &&
			kappa_letter_log_has(get_log(retry), message->partition, message->offset))
			ranges[n++] = (KappaRange){ .partition = message->partition,
										.start = message->offset,
										.end = message->offset + 1 };
	}
	if (n > 0)
		kappa_letter_log_read(get_log(retry), ranges, n, complete_letter, retry);
	for (int i = 0; i < retry->nletters; i++)
		if (!retry->letters[i].complete)
			add_missing(retry, i);
}

/* ---- what came after a letter ---- */

typedef struct FindStep
{
	Retry *retry;
	KappaBatchTable *bt;
	int *found;
} FindStep;

static uint64
find_step(KappaApplier *applier, void *arg)
{
	FindStep *step = arg;

	return kappa_batch_find_later(step->bt, step->retry->nletters, step->retry->faults.excluded,
								  step->found);
}

/* Keep only the last message of each key that the letters have. */
static void
reduce_messages(Retry *retry)
{
	MemoryContext kept = AllocSetContextCreate(GetMemoryChunkContext(retry->letters),
											   "kappa later messages", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(retry->context);
	int *found = palloc(Max(retry->nletters, 1) * sizeof(int));
	FindStep step = { retry, load_batch(retry), found };
	int n = kappa_apply_run(retry->applier, find_step, &step);
	KappaMessage *later = palloc(Max(n, 1) * sizeof(KappaMessage));

	MemoryContextSwitchTo(kept);
	for (int i = 0; i < n; i++)
		kappa_letter_log_copy(&later[i], &retry->messages[found[i]]);
	memcpy(retry->messages + retry->nletters, later, n * sizeof(KappaMessage));
	retry->nmessages = retry->nletters + n;
	retry->bytes = 0;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(retry->context);
	retry->context = kept;
}

static bool
is_passed_over(const Retry *retry, const KappaMessage *message)
{
	ListCell *lc;

	foreach(lc, retry->gaps)
	{
		const KappaGap *gap = lfirst(lc);

		if (gap->part == message->partition && gap->from_offset <= message->offset &&
			message->offset < gap->to_offset)
			return true;
	}
	return false;
}

static void
take_later_message(const KappaMessage *message, void *arg)
{
	Retry *retry = arg;
	MemoryContext old;

	if (is_passed_over(retry, message))
		return;
	old = MemoryContextSwitchTo(retry->context);
	kappa_letter_log_copy(&retry->messages[retry->nmessages++], message);
	MemoryContextSwitchTo(old);
	retry->bytes += kappa_message_bytes(message);
	if (retry->nmessages - retry->nletters >= retry->nletters + CHUNK_MESSAGES ||
		retry->bytes >= CHUNK_BYTES)
		reduce_messages(retry);
}

/* The log from the first good letter of each partition up to the view's position. */
static KappaRange *
make_ranges(Retry *retry, int *n)
{
	KappaRange *ranges = palloc(retry->nletters * sizeof(KappaRange));

	*n = 0;
	for (int i = 0; i < retry->nletters; i++)
	{
		const KappaMessage *message = &retry->letters[i].message;

		if (bms_is_member(i, retry->faults.excluded) ||
			(*n > 0 && ranges[*n - 1].partition == message->partition))
			continue;
		ranges[*n].partition = message->partition;
		ranges[*n].start = message->offset + 1;
		ranges[*n].end = retry->applier->next_offset[message->partition];
		*n += ranges[*n].start < ranges[*n].end;
	}
	return ranges;
}

/* Put the last message of each key behind the letters of a changelog. */
static void
find_later_messages(Retry *retry)
{
	KappaRange *ranges;
	int n;

	for (int i = 0; i < retry->nletters; i++)
	{
		const KappaMessage *message = &retry->letters[i].message;

		if (!bms_is_member(i, retry->faults.excluded) &&
			!kappa_letter_log_has(get_log(retry), message->partition, message->offset))
			add_missing(retry, i);
	}
	ranges = make_ranges(retry, &n);
	if (n == 0)
		return;
	retry->gaps = kappa_catalog_list_gaps_at(retry->applier->view, retry->applier->version,
											 InvalidSnapshot);
	retry->context = AllocSetContextCreate(CurrentMemoryContext, "kappa later messages",
										   ALLOCSET_DEFAULT_SIZES);
	kappa_letter_log_read(retry->log, ranges, n, take_later_message, retry);
	reduce_messages(retry);
}

/* ---- applying ---- */

/* Find out which of the letters still fail. */
static void
find_faults(Retry *retry)
{
	KappaInquiry inquiry = {
		.applier = retry->applier,
		.bt = load_batch(retry),
		.nmessages = retry->nletters,
		.again = true,
		.faults = &retry->faults,
		.attempt = attempt_and_undo,
	};

	if (kappa_blame_find(&inquiry) == KAPPA_BLAME_OTHERS)
		ThrowErrorData(inquiry.error);
}

static void
apply_letters(Retry *retry)
{
	KappaBatchPart part = {
		.last = retry->nmessages,
		.excluded = retry->faults.excluded,
		.again = true,
	};

	PG_TRY();
	{
		(void) kappa_apply_batch(retry->applier, load_batch(retry), &part);
	}
	PG_CATCH();
	{
		clean_up();
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Delete what has been applied, and tell what is wrong with the rest now. */
static void
store_results(const Retry *retry)
{
	const KappaApplier *applier = retry->applier;
	ListCell *lc;

	for (int i = 0; i < retry->nletters; i++)
		if (!bms_is_member(i, retry->faults.excluded))
			kappa_deadletter_delete(applier->view, applier->version, &retry->letters[i].message);
	foreach(lc, retry->faults.messages)
	{
		const KappaBadMessage *bad = lfirst(lc);

		kappa_deadletter_update(applier->view, applier->version,
								&retry->letters[bad->message].message, bad->error);
	}
}

/* Some letters behind *last, which is moved to the last of them; false if there are none. */
static bool
retry_some(Retry *retry, KappaMessage *last)
{
	const KappaApplier *applier = retry->applier;
	int room;

	retry->nletters = kappa_deadletter_load(applier->view, applier->version, last->partition,
											last->offset, &retry->letters);
	if (retry->nletters == 0)
		return false;
	*last = retry->letters[retry->nletters - 1].message;
	complete_letters(retry);

	room = needs_later_messages(retry) ? 2 * retry->nletters + CHUNK_MESSAGES : 0;
	retry->nmessages = retry->nletters;
	retry->messages = palloc((retry->nletters + room) * sizeof(KappaMessage));
	for (int i = 0; i < retry->nletters; i++)
		retry->messages[i] = retry->letters[i].message;
	find_faults(retry);
	if (needs_later_messages(retry))
		find_later_messages(retry);
	if (bms_num_members(retry->faults.excluded) < retry->nletters)
		apply_letters(retry);
	store_results(retry);
	return true;
}

/* Returns how many letters of a version were applied; *left is how many were not. */
static int64
retry_version(KappaApplier *applier, int64 *left)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "kappa dead letters",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	KappaMessage last = { .partition = -1 };
	int64 applied = 0;
	bool more = true;

	*left = 0;
	while (more)
	{
		Retry retry = { .applier = applier, .table = kappa_options_get_table(applier->relid) };

		more = retry_some(&retry, &last);
		applied += retry.nletters - list_length(retry.faults.messages);
		*left += list_length(retry.faults.messages);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return applied;
}

/*
 * Open a version for us alone.  NULL if it is gone; it may have another table
 * by the time that the lock on it is there.
 */
static KappaApplier *
open_version(const KappaVersion *version)
{
	KappaApplier *applier;

	LockRelationOid(version->target, ShareRowExclusiveLock);
	applier = kappa_apply_open(version->view, version->version);
	if (applier != NULL && applier->target != version->target)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("view \"%s\" has just been rebuilt", applier->name),
				 errhint("Try again.")));
	return applier;
}

static void
check_can_retry(const KappaView *view)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("kappa.retry_dead_letters() cannot be used in a transaction with isolation level %s",
						XactIsoLevel == XACT_SERIALIZABLE ? "SERIALIZABLE" : "REPEATABLE READ"),
				 errhint("Use isolation level READ COMMITTED.")));
	if (view->restored)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("view \"%s\" is restored", get_rel_name(view->view)),
				 errhint("Call kappa.resume_view() first.")));
}

/*
 * kappa.retry_dead_letters(view regclass) -> bigint.  All versions that are
 * kept live have theirs applied, so that they go on standing together; those of
 * the live one are counted.
 */
Datum
kappa_sql_retry_dead_letters(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	int64 result = 0;
	ListCell *lc;

	check_can_retry(view);
	foreach(lc, kappa_catalog_list_versions(view->view))
	{
		KappaApplier *applier = open_version(lfirst(lc));
		int64 applied;
		int64 left;

		if (applier == NULL)
			continue;
		applied = retry_version(applier, &left);
		if (applied + left > 0)
			kappa_catalog_add_event(view->view, "retried", applier->version, NULL,
									psprintf(INT64_FORMAT " of " INT64_FORMAT " dead letters applied",
											 applied, applied + left));
		if (applier->live)
			result = applied;
		kappa_apply_close(applier);
	}
	PG_RETURN_INT64(result);
}
