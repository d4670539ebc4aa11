%% @doc Messages as gateways send them to each other, forged: what a node with the cookie could
%% say in a gateway's place. The forms are those of `registry/cluster/wire.rs' and of
%% `services/channel/remote.rs', in the encoding of https://postcard.jamesmunns.com/wire-format.
-module(gater_forge).

-export([question/2, question/3, hello_answer/2, relay/1]).
-export([vote_request/4, append/3, append/4, snapshot/6, prepare/1, accept/3, admit/2, remove/1, forward/1,
         hello/0]).
-export([vote/3, entry/2, blank/0, batch/1, registering/2, log_id/3, membership/1, snapshot_body/3]).
-export([relay_hello/2, relay_secret/1, relay_last/2]).
-export_type([bytes/0]).

-type bytes() :: iodata().
-type log_id() :: {Term :: non_neg_integer(), Leader :: non_neg_integer(), Index :: non_neg_integer()}.

%% @doc The term for `esdb_gater_gateway' that asks something, of a gateway of this cluster with
%% this id.
-spec question({Cluster :: none | non_neg_integer(), From :: non_neg_integer()}, bytes()) -> binary().
question(Sender, Question) -> question(Sender, 1, Question).

%% @doc As `question/2', with the number of the question.
-spec question({none | non_neg_integer(), non_neg_integer()}, non_neg_integer(), bytes()) -> binary().
question({Cluster, From}, Number, Question) ->
    iolist_to_binary([4, option(Cluster, fun number/1), number(From), number(Number), 0, Question]).

%% @doc The answer to a message of a gateway that asks who one is; `other' if it asks something else.
-spec hello_answer({none | non_neg_integer(), non_neg_integer()}, binary()) -> binary() | other.
hello_answer({Cluster, From}, <<4, Envelope/binary>>) ->
    {_, AfterSender} = read_number(case Envelope of
        <<0, Rest/binary>> -> Rest;
        <<1, Rest/binary>> -> element(2, read_number(Rest))
    end),
    case read_number(AfterSender) of
        {Number, <<0, 0>>} ->
            Statement = [number(1), number(7), number(0), number(0), number(0), <<0:256>>],
            iolist_to_binary([4, option(Cluster, fun number/1), number(From), number(Number), 1, 0,
                              number(From), boolean(true), number(0), boolean(false),
                              Statement, option(none, none), boolean(false)]);
        _ ->
            other
    end.

read_number(Bytes) -> read_number(Bytes, 0).

read_number(<<0:1, Low:7, Rest/binary>>, Shift) -> {Low bsl Shift, Rest};
read_number(<<1:1, Low:7, Rest/binary>>, Shift) ->
    {High, After} = read_number(Rest, Shift + 7),
    {(Low bsl Shift) bor High, After}.

%% @doc The term for `esdb_gater_relay'.
-spec relay(bytes()) -> binary().
relay(Word) -> iolist_to_binary([4, Word]).

%%% Questions

-spec hello() -> bytes().
hello() -> number(0).

-spec vote_request(To :: non_neg_integer(), Term :: non_neg_integer(), Candidate :: non_neg_integer(),
                   none | log_id()) -> bytes().
vote_request(To, Term, Candidate, Last) ->
    [number(1), number(To), vote(Term, Candidate, false), option(Last, fun encode_log_id/1)].

-spec append(To :: non_neg_integer(), Vote :: bytes(), [bytes()]) -> bytes().
append(To, Vote, Entries) -> append(To, Vote, {none, none}, Entries).

%% @doc Entries that follow one entry, with what is committed.
-spec append(non_neg_integer(), bytes(), {none | log_id(), none | log_id()}, [bytes()]) -> bytes().
append(To, Vote, {Previous, Committed}, Entries) ->
    [number(2), number(To), Vote, option(Previous, fun encode_log_id/1), number(length(Entries)), Entries,
     option(Committed, fun encode_log_id/1)].

-spec snapshot(To :: non_neg_integer(), Vote :: bytes(), log_id(), Members :: bytes(), Offset :: non_neg_integer(),
               Body :: binary()) -> bytes().
snapshot(To, Vote, Last, Members, Offset, Body) ->
    [number(3), number(To), Vote,
     option(Last, fun encode_log_id/1), option(Last, fun encode_log_id/1), Members, text("forged"),
     number(Offset), text(Body), 1].

-spec forward(bytes()) -> bytes().
forward(Batch) -> [number(4), Batch].

-spec prepare({non_neg_integer(), non_neg_integer()}) -> bytes().
prepare({Number, Id}) -> [number(6), number(Number), number(Id)].

-spec accept({non_neg_integer(), non_neg_integer()}, non_neg_integer(), [{non_neg_integer(), string()}]) ->
    bytes().
accept({Number, Id}, Cluster, Members) ->
    [number(7), number(Number), number(Id), number(Cluster), number(length(Members)),
     [[number(Member), text(Name)] || {Member, Name} <- Members]].

-spec admit(non_neg_integer(), string()) -> bytes().
admit(Id, Name) -> [number(8), number(Id), text(Name)].

-spec remove(string()) -> bytes().
remove(Name) -> [number(10), text(Name)].

%%% Parts of them

-spec vote(non_neg_integer(), non_neg_integer(), boolean()) -> bytes().
vote(Term, Node, Committed) -> [number(Term), number(Node), boolean(Committed)].

-spec log_id(non_neg_integer(), non_neg_integer(), non_neg_integer()) -> log_id().
log_id(Term, Leader, Index) -> {Term, Leader, Index}.

-spec entry(log_id(), bytes()) -> bytes().
entry(LogId, Payload) -> [encode_log_id(LogId), Payload].

-spec blank() -> bytes().
blank() -> number(0).

-spec batch([bytes()]) -> bytes().
batch(Commands) -> [number(1), no_origin(Commands)].

no_origin(Commands) -> [0, number(length(Commands)), Commands].

%% @doc The command that registers a process for a store.
-spec registering(atom(), {node(), non_neg_integer(), non_neg_integer(), non_neg_integer()}) -> bytes().
registering(Store, Pid) -> [number(0), text(atom_to_list(Store)), pid(Pid)].

-spec membership([{non_neg_integer(), string()}]) -> bytes().
membership(Members) ->
    Sorted = lists:sort(Members),
    [number(1), number(length(Sorted)), [number(Id) || {Id, _} <- Sorted],
     number(length(Sorted)), [[number(Id), text(Name)] || {Id, Name} <- Sorted]].

%% @doc The body of a snapshot with these registrations and no proposers.
-spec snapshot_body(pos_integer(), non_neg_integer(),
                    [{non_neg_integer(), atom(), {node(), non_neg_integer(), non_neg_integer(), non_neg_integer()}}]) ->
    binary().
snapshot_body(Version, LastEpoch, Registrations) ->
    iolist_to_binary([1, number(Version), number(LastEpoch), number(length(Registrations)),
                      [[number(Epoch), text(atom_to_list(Store)), pid(Pid)]
                       || {Epoch, Store, Pid} <- Registrations],
                      number(0)]).

%%% Words of the relay

-spec relay_hello(non_neg_integer(), {node(), non_neg_integer(), non_neg_integer(), non_neg_integer()}) -> bytes().
relay_hello(Id, Pid) -> [number(0), pid(Pid), number(Id), boolean(false)].

-spec relay_last(non_neg_integer(), binary()) -> bytes().
relay_last(At, Message) -> [number(4), number(At), text(Message)].

-spec relay_secret(binary()) -> bytes().
relay_secret(Secret) -> [number(5), text(Secret)].

%%% The encoding

encode_log_id({Term, Leader, Index}) -> [number(Term), number(Leader), number(Index)].

pid({Node, Id, Serial, Creation}) -> [text(atom_to_list(Node)), number(Id), number(Serial), number(Creation)].

option(none, _) -> <<0>>;
option(Value, Encode) -> [1, Encode(Value)].

boolean(true) -> <<1>>;
boolean(false) -> <<0>>.

text(Bytes) when is_binary(Bytes) -> [number(byte_size(Bytes)), Bytes];
text(Text) -> text(unicode:characters_to_binary(Text)).

number(N) when N < 128 -> <<N>>;
number(N) -> [<<1:1, (N band 127):7>>, number(N bsr 7)].
