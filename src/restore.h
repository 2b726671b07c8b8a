/*-------------------------------------------------------------------------
 *
 * restore.h
 *	  Views that come from a dump or a copy of a database
 *
 * IDENTIFICATION
 *	  src/restore.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_RESTORE_H
#define KAPPA_RESTORE_H

#include "catalog.h"

/*
 * Make a restored view one of this database.  Needs a transaction; the caller
 * has checked that all of the view is there.
 */
extern void kappa_restore_adopt(const KappaView *view);

#endif /* KAPPA_RESTORE_H */
