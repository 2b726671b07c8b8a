/*-------------------------------------------------------------------------
 *
 * blame.c
 *	  Whose fault is it that a batch cannot be applied?
 *
 * The class of an SQLSTATE does not say it: a function may raise anything
 * because of a message, and a constraint that a user has put on the view's
 * table fails on a good one with the class of a bad one.  So the delta alone is
 * run, as a SELECT whose rows are thrown away.  If it works, the messages are
 * innocent.  If it fails even over none of them, so they are, too.  Otherwise
 * parts of the batch are tried until single messages are found.
 *
 * Usually that takes one statement for each: a scan that fails while it
 * converts a message has found it.  Where an error comes late, after a sort,
 * say, parts of growing size are tried from the last bad message on, and the
 * one that fails is halved.  So the work grows with the size of the batch and
 * the number of bad messages, and not with their product.
 *
 * A changelog's scan takes the last message of each key.  What a message is
 * blamed for must not be that a part ends before the one that replaces it, so
 * there all parts end where the batch does.
 *
 * IDENTIFICATION
 *	  src/blame.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "blame.h"
#include "kappa.h"

/* So many messages must have been read before a share of them means something. */
#define MIN_SHARE_MESSAGES 100
#define MIN_FIRST_MESSAGES 10

/* "Of late" are about so many messages. */
#define RECENT_MESSAGES 1000

bool
kappa_blame_is_plain(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return sqlerrcode == ERRCODE_KAPPA_STOP;
	}
}

/* ---- the budget ---- */

void
kappa_blame_note(KappaBudget *budget, int64 messages, int64 bad)
{
	budget->messages += messages;
	budget->bad += bad;
	while (budget->messages > 2 * RECENT_MESSAGES)
	{
		budget->messages /= 2;
		budget->bad /= 2;
	}
}

/*
 * Why no more messages of a view may be set aside; NULL if they may.  seen:
 * how many of the batch have been looked at.
 */
static char *
describe_overdraft(const KappaBudget *budget, int64 seen, int64 bad)
{
	const KappaLimits *own = &budget->limits;
	int limit = own->has_dead_letter_limit ? own->dead_letter_limit : kappa_dead_letter_limit;
	int percent = own->has_dead_letter_percent ? own->dead_letter_percent
											   : kappa_dead_letter_percent;
	int64 messages = budget->messages + seen;
	int64 all = budget->read + seen;

	if (limit >= 0 && budget->letters + bad > limit)
		return psprintf("%s is %d, and " INT64_FORMAT " dead letters wait already.",
						own->has_dead_letter_limit ? "Its dead_letter_limit"
												   : "kappa.dead_letter_limit",
						limit, budget->letters);
	if (percent == 100)
		return NULL;
	if (budget->letters + bad >= all && all >= MIN_FIRST_MESSAGES)
		return psprintf("All of the " INT64_FORMAT " messages that it has read so far are bad.", all);
	if (messages >= MIN_SHARE_MESSAGES &&
		(budget->bad + bad) * 100 > messages * percent)
		return psprintf(INT64_FORMAT " of the last " INT64_FORMAT " messages are bad; %s is %d.",
						budget->bad + bad, messages,
						own->has_dead_letter_percent ? "its dead_letter_percent"
													 : "kappa.dead_letter_percent",
						percent);
	return NULL;
}

/* False if the bad messages found so far are too many. */
static bool
can_afford(KappaInquiry *inquiry, int64 seen)
{
	List *messages = inquiry->faults->messages;
	const ErrorData *last = ((KappaBadMessage *) llast(messages))->error;
	ErrorData *error;
	char *reason;

	if (inquiry->budget == NULL)
		return true;
	reason = describe_overdraft(inquiry->budget, seen, list_length(messages));
	if (reason == NULL)
		return true;

	error = palloc0(sizeof(ErrorData));
	error->elevel = ERROR;
	error->sqlerrcode = ERRCODE_KAPPA_STOP;
	error->message = psprintf("too many messages cannot be applied to view \"%s\"",
							  inquiry->applier->name);
	error->detail = psprintf("%s  The error of the last one: %s", reason, last->message);
	error->hint = pstrdup("Mend the query with kappa.alter_view(), or what it relies on, and call kappa.resume_view(); or raise the limit.");
	inquiry->error = error;
	return false;
}

/* ---- probes ---- */

typedef struct ProbeStep
{
	KappaInquiry *inquiry;
	KappaBatchPart part;
} ProbeStep;

static void
probe_step(void *arg)
{
	ProbeStep *step = arg;

	kappa_apply_probe(step->inquiry->applier, step->inquiry->bt, &step->part);
}

/* Run the delta over [first, last) of the batch, without what is known to be bad. */
static ErrorData *
probe(KappaInquiry *inquiry, int first, int last)
{
	ProbeStep step = {
		.inquiry = inquiry,
		.part = {
			.first = first,
			.last = last,
			.excluded = inquiry->faults->excluded,
			.again = inquiry->again,
		},
	};

	CHECK_FOR_INTERRUPTS();
	return inquiry->attempt(probe_step, &step);
}

/* Where a search stands. */
typedef struct Search
{
	KappaInquiry *inquiry;
	int from;         /* all before works, as far as is known */
	bool late;        /* the last error came after the scan */
	ErrorData *error; /* of what was found, or why nothing can be */
	bool plain;       /* the error is not one of messages */
} Search;

/* Likewise, for a search; true if the messages are bad. */
static bool
fails(Search *search, int first, int last)
{
	ErrorData *error = probe(search->inquiry, first, last);

	if (error == NULL)
		return false;
	search->error = error;
	search->plain = kappa_blame_is_plain(error->sqlerrcode);
	return !search->plain;
}

/* The part of the batch that has the places a to b of the search, counted in its direction. */
static bool
part_fails(Search *search, int a, int b)
{
	int n = search->inquiry->nmessages;

	if (search->inquiry->applier->changelog)
		return fails(search, n - b, n);
	return fails(search, search->from + a, search->from + b);
}

/*
 * Find the first place at which a part fails.  -1 if only several messages
 * together do.
 */
static int
find_place(Search *search)
{
	int length = search->inquiry->nmessages - search->from;
	int good = 0;
	int bad = Min(1, length);

	while (!part_fails(search, good, bad))
	{
		if (search->plain || bad == length)
			return -1;
		good = bad;
		bad = Min(2 * bad + 1, length);
	}
	while (bad - good > 1)
	{
		int middle = good + (bad - good) / 2;

		if (part_fails(search, good, middle))
			bad = middle;
		else if (search->plain)
			return -1;
		else
			good = middle;
	}
	return good;
}

/* The first message that fails alone; -1 if none does. */
static int
find_single(Search *search)
{
	for (int i = search->from; i < search->inquiry->nmessages; i++)
	{
		if (fails(search, i, i + 1))
			return i;
		if (search->plain)
			break;
	}
	return -1;
}

/* The place in the batch of a bad message; -1 if there is none, or not a single one. */
static int
find_message(Search *search)
{
	KappaInquiry *inquiry = search->inquiry;
	int n = inquiry->nmessages;
	bool reading;
	int message;

	search->error = NULL;
	search->plain = false;
	if (inquiry->singly)
		return find_single(search);
	if (!search->late)
	{
		if (!fails(search, search->from, n))
			return -1;
		message = kappa_batch_current(&reading);
		if (reading || (message >= search->from && fails(search, message, message + 1)))
			return message;
		if (search->plain)
			return -1;
	}
	search->late = true;
	message = find_place(search);
	if (message < 0)
		return -1;
	message = inquiry->applier->changelog ? n - 1 - message : search->from + message;
	return fails(search, message, message + 1) ? message : -1;
}

static void
add_fault(KappaInquiry *inquiry, int message, ErrorData *error)
{
	KappaFaults *faults = inquiry->faults;
	KappaBadMessage *bad = palloc(sizeof(KappaBadMessage));

	bad->message = message;
	bad->error = error;
	faults->messages = lappend(faults->messages, bad);
	faults->excluded = bms_add_member(faults->excluded, message);
}

KappaVerdict
kappa_blame_find(KappaInquiry *inquiry)
{
	Search search = { .inquiry = inquiry };
	bool changelog = inquiry->applier->changelog;
	int known = list_length(inquiry->faults->messages);

	/* What fails over no message at all is not the fault of one. */
	inquiry->error = probe(inquiry, 0, 0);
	if (inquiry->error != NULL)
		return KAPPA_BLAME_OTHERS;

	for (;;)
	{
		int message = find_message(&search);

		if (message >= 0)
		{
			int seen = changelog ? inquiry->nmessages : message + 1;

			add_fault(inquiry, message, search.error);
			if (!changelog)
				search.from = message + 1;
			if (!can_afford(inquiry, seen))
				return KAPPA_BLAME_SPENT;
		}
		else if (search.plain)
		{
			inquiry->error = search.error;
			return KAPPA_BLAME_OTHERS;
		}
		else if (search.from == 0 || search.error != NULL)
			break;
		else
		{
			/* The rest works: is there one that was passed over? */
			search.from = 0;
			search.late = false;
		}
	}
	inquiry->together = search.error != NULL;
	return list_length(inquiry->faults->messages) > known ? KAPPA_BLAME_MESSAGES
														  : KAPPA_BLAME_MERGE;
}

/* ---- the merge ---- */

static void
merge_step(void *arg)
{
	ProbeStep *step = arg;

	(void) kappa_apply_batch(step->inquiry->applier, step->inquiry->bt, &step->part);
}

/* Try the merge over the batch's first messages, and undo it; NULL if it works. */
static ErrorData *
try_merge(KappaInquiry *inquiry, int last)
{
	ProbeStep step = {
		.inquiry = inquiry,
		.part = { .last = last, .excluded = inquiry->faults->excluded },
	};

	CHECK_FOR_INTERRUPTS();
	return inquiry->attempt(merge_step, &step);
}

int
kappa_blame_find_merge(KappaInquiry *inquiry)
{
	int good = 0;
	int bad = inquiry->nmessages;

	if (try_merge(inquiry, bad) == NULL)
		return bad;
	while (bad - good > 1)
	{
		int last = good + (bad - good) / 2;
		ErrorData *error = try_merge(inquiry, last);

		if (error == NULL)
			good = last;
		else if (kappa_blame_is_plain(error->sqlerrcode))
			return -1;
		else
			bad = last;
	}
	return bad - 1;
}
