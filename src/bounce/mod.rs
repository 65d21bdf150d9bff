//! Reports to a message's sender: that it failed, that it takes long, that it was handed on (RFC 3464, RFC 3461). Pure.
