/*-------------------------------------------------------------------------
 *
 * load.h
 *	  Load rows into the empty tables of a view
 *
 * IDENTIFICATION
 *	  src/load.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_LOAD_H
#define KAPPA_LOAD_H

#include "tcop/dest.h"

/*
 * A receiver that puts rows into a view's table, and into the companion
 * (InvalidOid: there is none).  The rows have the columns of both, by name, and
 * may have KAPPA_COLUMN_KEEP: a row of which that is false goes into the
 * companion alone.  KAPPA_COLUMN_SHOWN, which is not NULL, is replaced by where
 * the row is in the view's table.
 *
 * Both tables must be such that kappa_append_is_possible().  read: whether others
 * may be reading the view's table, so that its indexes have to grow with it.
 */
extern DestReceiver *kappa_load_create_receiver(Oid target, Oid companion, bool read);

#endif /* KAPPA_LOAD_H */
