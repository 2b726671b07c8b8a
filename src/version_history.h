/*-------------------------------------------------------------------------
 *
 * version_history.h
 *	  What is remembered of the versions of a view, also after they are gone
 *
 * kappa.view_version has the versions that exist; kappa.version_history has
 * all of them, and keeps what kappa.versions shows of those that were dropped.
 * Functions need a transaction.
 *
 * IDENTIFICATION
 *	  src/version_history.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_VERSION_HISTORY_H
#define KAPPA_VERSION_HISTORY_H

#include "view_start.h"

/*
 * A version has been inserted into kappa.view_version.  missing says what the
 * log did not have any more, or is NULL; what was missing from the version
 * that this one is built beside is missing from it, too.  start is where it
 * was asked to start; NULL: where that other version did.
 */
extern void kappa_history_begin(Oid view, int32 version, const char *missing,
								const KappaStart *start);

/* From when on messages belong to a version; DT_NOBEGIN: from the beginning of the log. */
extern TimestampTz kappa_history_get_start(Oid view, int32 version);

/* The number of the newest version that a view has had. */
extern int32 kappa_history_get_last(Oid view);

/* A version has become the live one. */
extern void kappa_history_switch(Oid view, int32 version);

/* A version is about to be dropped, but is there still: write down what is known of it. */
extern void kappa_history_end(Oid view, int32 version);

#endif /* KAPPA_VERSION_HISTORY_H */
