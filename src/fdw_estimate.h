/*-------------------------------------------------------------------------
 *
 * fdw_estimate.h
 *	  How long logs are, for the planner
 *
 * IDENTIFICATION
 *	  src/fdw_estimate.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_ESTIMATE_H
#define KAPPA_FDW_ESTIMATE_H

#include "fdw_options.h"
#include "fdw_ranges.h"

/*
 * First and end offsets of a topic as a user would see them, at most some
 * seconds old; NULL if they are not known because the brokers do not answer.
 * Throws only for interrupts and for lack of resources.  The result is valid
 * until the next call.
 */
extern const KappaLog *kappa_estimate_log(const KappaTable *table, Oid userid);

/* Remember what a scan has learnt anyway. */
extern void kappa_estimate_remember(const KappaTable *table, Oid userid,
									const KappaLog *log);

#endif /* KAPPA_FDW_ESTIMATE_H */
