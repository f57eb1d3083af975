//! The Simple Two-way Active Measurement Protocol (RFC 8762, RFC 8972): what both ends put into packets. Pure.
//!
//! A *Session-Sender* numbers and timestamps its packets, a *Session-Reflector* returns each with its own number and
//! two more times: T2, when the packet arrived, and T3, when the reply left. So a lost packet, and a delay, has a
//! direction.
//!
//! ```text
//! sender      T1 ──────────────┐                    ┌────────────> T4
//! reflector                    └──> T2 ······ T3 ───┘
//! ```
//!
//! | file | responsibility |
//! |---|---|
//! | [`packet`] | the packets of both ends, open and authenticated |
//! | [`time`] | timestamps and error estimates |
//! | [`auth`] | HMAC-SHA-256 |
//! | [`tlv`] | the extensions behind the base packet |
//! | [`sessions`] | the counters of a stateful reflector |
//! | [`reflector`] | a request becomes a reply |
//!
//! The service `stamp` (`server::stamp`) and `ping --stamp` (`client::stamp`) put this on sockets.
//!
//! # Requirements
//!
//! What RFC 8762 and the parts of RFC 8972 in scope require, in this crate's words, and the test that shows it. Tests
//! of `tests/program/stamp.rs` and `stamp_ping.rs` are named by these files, others by their module.
//!
//! | RFC 8762 | requirement | test |
//! |---|---|---|
//! | 4.1 | The default destination port is 862, and others can be chosen. | `stamp::default_port_is_that_of_the_protocol`; every other test uses another port |
//! | 4.1 | A port of the user range may only be used where that harms nobody. | none: the operator's decision |
//! | 4.2.1, 4.2.2 | The sender's packet has its layout, open and authenticated; what is reserved is zero. | `packet::fields_stand_where_the_rfc_has_them`, `stamp::packets_agree_with_tshark` |
//! | 4.2.1 | Numbers rise by one with each packet. | `client::stamp::numbers_survive_the_way_through_32_bits`. They begin with 16 instead of 0, as if packets had been lost: only so a stateless reflector shows itself |
//! | 4.2.1 | NTP's format is the default; PTP's is announced by Z. | `time::time_survives_either_format`, `reflector::reply_has_the_timestamp_format_of_the_request_and_the_quality_of_the_clock` |
//! | 4.2.1 | S is set only if the clock is synchronized to UTC by an external source; the multiplier is not zero (RFC 4656). | `stamp::clock_counts_as_synchronized_only_if_the_kernel_says_so`, `time::error_is_rounded_up_and_by_less_than_a_hundredth` |
//! | 4.2, 4.3 | What is reserved is ignored on receipt. | `reflector::any_request_gets_a_reply_of_its_size`; with one exception, the rule against loops: `stamp::only_what_may_be_a_reply_is_withheld` |
//! | 4.3 | The reflector's packet is as long as the sender's, and at least the base. | `stamp::reply_is_as_long_as_its_request_but_at_least_the_base` |
//! | 4.3 | A stateless reflector copies the number, a stateful one counts its packets. | `stamp::stateless_reflector_repeats_numbers`, `stamp::sessions_have_numbers_of_their_own` |
//! | 4.3.1, 4.3.2 | The reflector's packet has its layout, with the sender's number, timestamp and error estimate, and the hop limit that it arrived with. | `stamp::replies_agree_with_scapy`, `stamp::hop_limit_is_copied_for_both_families` |
//! | 4.4 | The HMAC is HMAC-SHA-256 over the base packet, truncated to 16 bytes. | `auth::digest_is_that_of_rfc_4231_truncated`, `packet::signature_covers_every_byte_of_the_base` |
//! | 4.4 | It is verified as early as possible, and what does not match is discarded. | `stamp::wrong_and_missing_signatures_are_refused`, `stamp_ping::signed_session_needs_the_same_key` |
//! | 4.6 | Either end works with one of TWAMP Light. | `packet::reply_of_twamp_light_lacks_the_last_three_bytes`, `stamp_ping::twamp_light_reflector_is_understood`, and requests of 14 bytes in `stamp::reply_is_as_long_as_its_request_but_at_least_the_base` |
//!
//! | RFC 8972 | requirement | test |
//! |---|---|---|
//! | 3 | The SSID is not zero, and copied to the reply. | `client::ping` makes it so; `stamp::sessions_have_numbers_of_their_own` |
//! | 3 | A session is identified by the SSID together with addresses and ports. | `stamp::sessions_have_numbers_of_their_own` |
//! | 3 | A sender accepts no other session's packets; zero is that of a reflector without SSIDs. | `client::stamp::answers_of_other_sessions_keys_and_echoes_are_not_found` |
//! | 4 | A sender sets U, and clears M and I. | `client::stamp::round_trip_is_without_the_time_in_the_reflector` sends TLVs, which `tlv::push` writes |
//! | 4 | A reflector returns all TLVs; U stays set where it does not understand the type. | `tlv::padding_comes_back_and_unknown_types_with_u`, `stamp::replies_agree_with_scapy` |
//! | 4 | M is set where the length does not fit, and the rest is not processed. | `tlv::malformed_tlv_has_m_and_what_follows_is_left_alone` |
//! | 4 | I is set if the HMAC TLV does not match, and nothing is processed. | `tlv::integrity_fails_for_a_wrong_late_or_missing_hmac_tlv` |
//! | 4 | Errors are logged, but not too often. | none: refused packets are (`server::endpoint`); TLVs are marked only, because anybody can send any number of wrong ones |
//! | 4.1 | Extra padding is returned. | `stamp::reply_is_as_long_as_its_request_but_at_least_the_base` |
//! | 4.5 | The reflector leaves the sender's counter and fills in its own two. | `tlv::direct_measurement_is_filled_in_by_a_stateful_reflector`; a stateless one does not understand it |
//! | 4.8 | The HMAC TLV covers the sequence number and the TLVs before it, and only padding may follow. | `tlv::hmac_tlv_is_verified_and_renewed`, `stamp::wrong_and_missing_signatures_are_refused` |
//! | 4.2 to 4.4, 4.6, 4.7 | Location, timestamp information, class of service, access report, follow-up telemetry. | not in scope: unknown types |

pub mod auth;
pub mod packet;
pub mod reflector;
pub mod sessions;
pub mod time;
pub mod tlv;

pub use auth::Key;
pub use reflector::ReflectorOptions;

/// The port of reflectors.
pub const PORT: u16 = 862;
