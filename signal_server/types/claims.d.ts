/**
 * @typedef {{ tag: number, body: Uint8Array }} Packet
 * @typedef {{ type: number, critical: boolean, value: Uint8Array }} Subpacket
 * @typedef {{ type: number, algorithm: number, hash: number, hashed: Subpacket[], all: Subpacket[] }} Claim
 * @typedef {{ algorithm: number, maySign: boolean }} KeyClaim what a key is and, by its newest statement, may do
 */
/**
 * Which key a message says it was signed by, if the message is of the one form that the protocol has.
 *
 * @param {Uint8Array} body without armor
 * @param {(body: Uint8Array) => Promise<Uint8Array>} unpack what is in a compressed message
 * @returns {Promise<{ keyId: string, algorithm: number }>}
 */
export function readMessage(body: Uint8Array, unpack: (body: Uint8Array) => Promise<Uint8Array>): Promise<{
    keyId: string;
    algorithm: number;
}>;
/**
 * One public key, each of whose own signatures stands where it belongs and says nothing that we do not understand.
 *
 * @param {Uint8Array} body without armor
 * @param {(bytes: Uint8Array) => Uint8Array} sha1 which is how a key is named
 * @returns {Map<string, KeyClaim>} by key id: the primary key and its subkeys
 */
export function readKey(body: Uint8Array, sha1: (bytes: Uint8Array) => Uint8Array): Map<string, KeyClaim>;
/** @param {Uint8Array} bytes @returns {string} */
export function hex(bytes: Uint8Array): string;
/** @param {string} why @param {unknown} [cause] @returns {Error} about what is as it should be, perhaps, but not for kbpgp */
export function cannotVerify(why: string, cause?: unknown): Error;
/** @param {boolean} holds @param {string} why */
export function check(holds: boolean, why: string): void;
export type Packet = {
    tag: number;
    body: Uint8Array;
};
export type Subpacket = {
    type: number;
    critical: boolean;
    value: Uint8Array;
};
export type Claim = {
    type: number;
    algorithm: number;
    hash: number;
    hashed: Subpacket[];
    all: Subpacket[];
};
/**
 * what a key is and, by its newest statement, may do
 */
export type KeyClaim = {
    algorithm: number;
    maySign: boolean;
};
