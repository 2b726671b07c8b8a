/*-------------------------------------------------------------------------
 *
 * blame.h
 *	  Whose fault is it that a batch cannot be applied?
 *
 * IDENTIFICATION
 *	  src/blame.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_BLAME_H
#define KAPPA_BLAME_H

#include "apply.h"

/* A message that a version cannot take. */
typedef struct KappaBadMessage
{
	int message; /* its place in the batch */
	ErrorData *error;
} KappaBadMessage;

/* What is known to be bad for a version in the batch in hand. */
typedef struct KappaFaults
{
	List *messages; /* of KappaBadMessage */
	Bitmapset *excluded;
} KappaFaults;

/* Of the messages that a version has read: how many were bad lately, and in all. */
typedef struct KappaBudget
{
	int64 messages; /* of late */
	int64 bad;      /* among them */
	int64 read;     /* since its start, by offsets */
	int64 letters;  /* that wait in kappa.dead_letter */
	KappaLimits limits;
} KappaBudget;

typedef enum KappaVerdict
{
	KAPPA_BLAME_MESSAGES, /* some were found, and put to the faults */
	KAPPA_BLAME_MERGE,    /* no message's: something about the view's table */
	KAPPA_BLAME_OTHERS,   /* neither: something that the query needs is not there */
	KAPPA_BLAME_SPENT,    /* more are bad than the budget allows */
} KappaVerdict;

/* A look into a batch that could not be applied to a version. */
typedef struct KappaInquiry
{
	KappaApplier *applier;
	KappaBatchTable *bt;
	int nmessages;
	bool again;  /* see KappaBatchPart */
	bool singly; /* look at each message: several fail together, besides */
	KappaFaults *faults;
	const KappaBudget *budget; /* NULL: without limit */

	/*
	 * Runs a step in a (sub)transaction of its own and rolls that back, whatever
	 * comes of it: a function of the query may have done more than it should.
	 * Returns NULL, or the error that was thrown.
	 */
	ErrorData *(*attempt)(void (*step)(void *arg), void *arg);

	/* The result of KAPPA_BLAME_OTHERS and KAPPA_BLAME_SPENT. */
	ErrorData *error;

	/* With KAPPA_BLAME_MERGE: the delta fails, but over several messages only. */
	bool together;
} KappaInquiry;

/* An error that plainly is the system's, or asks for a person, is nobody's fault. */
extern bool kappa_blame_is_plain(int sqlerrcode);

/*
 * Find the messages of a batch over which the delta fails, by running it over
 * parts of the batch.  All memory is of the caller's context.
 */
extern KappaVerdict kappa_blame_find(KappaInquiry *inquiry);

/*
 * After KAPPA_BLAME_MERGE: the place in the batch of the first message with
 * which the merge fails, tried and undone; -1 if that cannot be told now, and
 * their number if it works by now.
 */
extern int kappa_blame_find_merge(KappaInquiry *inquiry);

/* Note that a batch was applied, with so many messages left out as letters. */
extern void kappa_blame_note(KappaBudget *budget, int64 messages, int64 bad);

#endif /* KAPPA_BLAME_H */
