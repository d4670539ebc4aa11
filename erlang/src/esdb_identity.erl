%%% @doc The identities that grant and receive capabilities: Ed25519 key pairs, named by a
%%% `did:key'.
%%%
%%% The name contains the public key itself (`did:key:z' and the key with its multicodec in
%%% base58btc), so everyone who knows the name can verify what the holder of the private key has
%%% signed.
%%% @end
-module(esdb_identity).

-include("../include/esdb_capability_types.hrl").

-export([generate/0, from_keypair/2, from_public_key/1, did/1, public_key/1, private_key/1,
         public_key_from_did/1, is_valid_did/1, base58_encode/1, base58_decode/1]).

-export_type([identity/0, did/0]).

-type identity() :: #identity{}.
-type did() :: binary().
%% A name has the form `<<"did:key:z6Mk...">>'.

-define(ALPHABET, "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz").
-define(KEY_BYTES, 32).
%% The greatest length of a name, which suffices for 34 bytes. The cost of decoding grows with the
%% square of the length.
-define(MAX_DID_BYTES, 64).

%% @doc Returns a new identity with a random key.
-spec generate() -> identity().
generate() ->
    {Public, Private} = crypto:generate_key(eddsa, ed25519),
    from_keypair(Public, Private).

%% @doc Returns the identity of a key pair of 32 bytes each. Raises `badarg' for other keys.
-spec from_keypair(Public :: binary(), Private :: binary()) -> identity().
from_keypair(<<_:?KEY_BYTES/binary>> = Public, <<_:?KEY_BYTES/binary>> = Private) ->
    #identity{did = to_did(Public), public_key = Public, private_key = Private};
from_keypair(_, _) ->
    error(badarg).

%% @doc Returns an identity that can be granted capabilities but cannot sign.
-spec from_public_key(binary()) -> identity().
from_public_key(<<_:?KEY_BYTES/binary>> = Public) ->
    #identity{did = to_did(Public), public_key = Public};
from_public_key(_) ->
    error(badarg).

%% @doc Returns the name of an identity.
-spec did(identity()) -> did().
did(#identity{did = Did}) when is_binary(Did) -> Did.

%% @doc Returns the public key.
-spec public_key(identity()) -> binary().
public_key(#identity{public_key = Key}) when is_binary(Key) -> Key.

%% @doc Returns the private key, if the identity has one.
-spec private_key(identity()) -> binary() | undefined.
private_key(#identity{private_key = Key}) -> Key.

%% @doc Returns the public key that a name contains.
-spec public_key_from_did(term()) -> {ok, binary()} | {error, invalid_did}.
public_key_from_did(<<"did:key:z", Encoded/binary>> = Did) when byte_size(Did) =< ?MAX_DID_BYTES ->
    case base58_decode(Encoded) of
        {ok, <<16#ed, 16#01, Key:?KEY_BYTES/binary>>} -> {ok, Key};
        _ -> {error, invalid_did}
    end;
public_key_from_did(_) ->
    {error, invalid_did}.

%% @doc Returns whether a term is the name of an Ed25519 key.
-spec is_valid_did(term()) -> boolean().
is_valid_did(Did) -> public_key_from_did(Did) =/= {error, invalid_did}.

to_did(Public) ->
    Encoded = base58_encode(<<?MULTICODEC_ED25519_PUB/binary, Public/binary>>),
    <<?DID_KEY_PREFIX/binary, ?MULTIBASE_BASE58BTC, Encoded/binary>>.

%% @doc Encodes bytes in base58 with the alphabet of Bitcoin.
-spec base58_encode(binary()) -> binary().
base58_encode(Bytes) when is_binary(Bytes) ->
    {Zeros, Rest} = leading(0, Bytes, 0),
    Digits = digits(binary:decode_unsigned(<<0, Rest/binary>>), []),
    iolist_to_binary([lists:duplicate(Zeros, $1), Digits]).

digits(0, Digits) -> Digits;
digits(N, Digits) -> digits(N div 58, [lists:nth(N rem 58 + 1, ?ALPHABET) | Digits]).

%% @doc Decodes a text in base58. The work grows with the square of its length.
-spec base58_decode(binary()) -> {ok, binary()} | {error, invalid_base58}.
base58_decode(Text) when is_binary(Text) ->
    {Ones, Rest} = leading($1, Text, 0),
    case number(Rest, 0) of
        invalid -> {error, invalid_base58};
        0 -> {ok, <<0:Ones/unit:8>>};
        N -> {ok, <<0:Ones/unit:8, (binary:encode_unsigned(N))/binary>>}
    end.

number(<<>>, N) -> N;
number(<<C, Rest/binary>>, N) ->
    case string:chr(?ALPHABET, C) of
        0 -> invalid;
        At -> number(Rest, N * 58 + At - 1)
    end.

leading(Byte, <<Byte, Rest/binary>>, Count) -> leading(Byte, Rest, Count + 1);
leading(_, Rest, Count) -> {Count, Rest}.
