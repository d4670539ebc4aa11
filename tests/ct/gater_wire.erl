%% @doc A peer that says what no BEAM would say: the handshake of Erlang distribution over a plain
%% socket, then any bytes.
%%
%% Source: Erlang/OTP "Distribution Protocol", sections "Distribution Handshake" and
%% "Protocol between Connected Nodes". Handshake version 6.
-module(gater_wire).

-export([connect/3, connect/4, open/1, open/2, send/2, send/3, frame/2, fragment/4, terms/2, await_close/1,
         receive_frame/2, flags/0, fragment_flags/0]).
-export([pid/3, call/4, cast/4, name_message/4, read/1]).
-export([listen_as/1]).
-export_type([options/0]).

-type options() :: #{
    flags => non_neg_integer(),
    creation => pos_integer(),
    %% Where the other side is; the loopback address where nothing is said.
    address => inet:ip_address(),
    %% The answer to `alive'.
    alive => true | false
}.

-define(TIMEOUT_MS, 20000).
-define(CLOSE_MS, 30000).
%% What OTP 25 to 27 insist on, without atom cache and fragments: frames are then 112 and terms.
-define(BASE, (16#4 bor 16#8 bor 16#10 bor 16#20 bor 16#80 bor 16#100 bor 16#200 bor 16#400
    bor 16#800 bor 16#4000 bor 16#10000 bor 16#20000 bor 16#40000 bor 16#1000000
    bor 16#2000000 bor 16#4000000 bor (1 bsl 34))).
-define(FRAGMENTS, 16#800000).

%% @doc Flags of a peer with frames of the plainest kind.
-spec flags() -> non_neg_integer().
flags() -> ?BASE.

%% @doc Flags of a peer that sends and takes fragments.
-spec fragment_flags() -> non_neg_integer().
fragment_flags() -> ?BASE bor ?FRAGMENTS.

%% @doc A connected socket, nothing said yet.
-spec open(inet:port_number()) -> gen_tcp:socket().
open(Port) -> open({127, 0, 0, 1}, Port).

%% @doc As `open/1', to another address.
-spec open(inet:ip_address(), inet:port_number()) -> gen_tcp:socket().
open(Address, Port) ->
    {ok, Socket} = gen_tcp:connect(Address, Port,
        [binary, {active, false}, {packet, raw}, {nodelay, true}], ?TIMEOUT_MS),
    Socket.

%% @doc Connects as the node `Name' and goes through the handshake.
-spec connect(inet:port_number(), string(), string()) ->
    {ok, gen_tcp:socket()} | {error, term()}.
connect(Port, Name, Cookie) -> connect(Port, Name, Cookie, #{}).

%% @doc As `connect/3' with options. Errors: `{status, Text}' and `{closed, Where}'.
-spec connect(inet:port_number(), string(), string(), options()) ->
    {ok, gen_tcp:socket()} | {error, term()}.
connect(Port, Name, Cookie, Options) ->
    Socket = open(maps:get(address, Options, {127, 0, 0, 1}), Port),
    Flags = maps:get(flags, Options, ?BASE),
    name_message(Socket, Name, Flags, maps:get(creation, Options, 4 + rand:uniform(1 bsl 31))),
    case status(Socket, Options) of
        ok -> challenge(Socket, Cookie);
        Error -> gen_tcp:close(Socket), Error
    end.

%% @doc The first message of the handshake.
-spec name_message(gen_tcp:socket(), string(), non_neg_integer(), pos_integer()) -> ok.
name_message(Socket, Name, Flags, Creation) ->
    message(Socket, [$N, <<Flags:64, Creation:32, (length(Name)):16>>, Name]).

status(Socket, Options) ->
    case read(Socket) of
        {ok, <<$s, "ok">>} -> ok;
        {ok, <<$s, "ok_simultaneous">>} -> ok;
        {ok, <<$s, "alive">>} ->
            Answer = maps:get(alive, Options, true),
            message(Socket, [$s, atom_to_list(Answer)]),
            case Answer of true -> ok; false -> {error, {status, <<"alive">>}} end;
        {ok, <<$s, Status/binary>>} -> {error, {status, Status}};
        {error, Reason} -> {error, {status, Reason}}
    end.

challenge(Socket, Cookie) ->
    case read(Socket) of
        {ok, <<$N, _Flags:64, Theirs:32, _/binary>>} ->
            Ours = rand:uniform(1 bsl 32) - 1,
            message(Socket, [$r, <<Ours:32>>, digest(Theirs, Cookie)]),
            Expected = digest(Ours, Cookie),
            case read(Socket) of
                {ok, <<$a, Expected:16/binary>>} -> {ok, Socket};
                Other -> gen_tcp:close(Socket), {error, {challenge, Other}}
            end;
        Other ->
            gen_tcp:close(Socket),
            {error, {no_challenge, Other}}
    end.

digest(Challenge, Cookie) -> erlang:md5([Cookie, integer_to_list(Challenge)]).

message(Socket, Data) ->
    %% A closed socket shows when the answer is read.
    _ = gen_tcp:send(Socket, [<<(iolist_size(Data)):16>>, Data]),
    ok.

%% @doc The next message of a handshake.
-spec read(gen_tcp:socket()) -> {ok, binary()} | {error, term()}.
read(Socket) ->
    case gen_tcp:recv(Socket, 2, ?TIMEOUT_MS) of
        {ok, <<Length:16>>} -> gen_tcp:recv(Socket, Length, ?TIMEOUT_MS);
        Error -> Error
    end.

%% @doc Sends bytes as they are; whether the socket took them.
-spec send(gen_tcp:socket(), iodata()) -> ok | {error, term()}.
send(Socket, Bytes) -> gen_tcp:send(Socket, Bytes).

%% @doc Sends a control message and an encoded payload (with its 131) in one plain frame.
-spec send(gen_tcp:socket(), tuple(), iodata()) -> ok | {error, term()}.
send(Socket, Control, Payload) -> send(Socket, frame(term_to_binary(Control), Payload)).

%% @doc A frame of the plainest kind: length, 112, control, payload.
-spec frame(iodata(), iodata()) -> iodata().
frame(Control, Payload) ->
    [<<(1 + iolist_size(Control) + iolist_size(Payload)):32, 112>>, Control, Payload].

%% @doc The next frame that is no tick.
-spec receive_frame(gen_tcp:socket(), timeout()) -> {ok, binary()} | {error, term()}.
receive_frame(Socket, Timeout) ->
    case gen_tcp:recv(Socket, 4, Timeout) of
        {ok, <<0:32>>} ->
            %% Ticks must be answered by something in time; a tick will do.
            _ = gen_tcp:send(Socket, <<0:32>>),
            receive_frame(Socket, Timeout);
        {ok, <<Length:32>>} ->
            gen_tcp:recv(Socket, Length, Timeout);
        Error ->
            Error
    end.

%% @doc The control message and payload of the next plain frame.
-spec terms(gen_tcp:socket(), timeout()) -> {tuple(), term()} | {tuple()} | {error, term()}.
terms(Socket, Timeout) ->
    case receive_frame(Socket, Timeout) of
        {ok, <<112, Rest/binary>>} ->
            {Control, Used} = binary_to_term(Rest, [used]),
            case Rest of
                <<_:Used/binary>> -> {Control};
                <<_:Used/binary, Payload/binary>> -> {Control, binary_to_term(Payload)}
            end;
        Other ->
            Other
    end.

%% @doc Waits until the other side closes the connection; what it said before is dropped.
%% Sooner than it would close for silence.
-spec await_close(gen_tcp:socket()) -> ok | still_open.
await_close(Socket) ->
    await_close(Socket, erlang:monotonic_time(millisecond) + ?CLOSE_MS).

await_close(Socket, Deadline) ->
    case gen_tcp:recv(Socket, 0, max(0, Deadline - erlang:monotonic_time(millisecond))) of
        {ok, _} -> await_close(Socket, Deadline);
        {error, timeout} -> still_open;
        {error, _} -> gen_tcp:close(Socket), ok
    end.

%% @doc A fragment frame: 69 begins a message (with no atom references), 70 goes on with it.
-spec fragment(69 | 70, non_neg_integer(), non_neg_integer(), iodata()) -> iodata().
fragment(Kind, Sequence, Id, Data) ->
    NoAtoms = case Kind of 69 -> <<0>>; 70 -> <<>> end,
    Frame = [<<131, Kind, Sequence:64, Id:64>>, NoAtoms, Data],
    [<<(iolist_size(Frame)):32>>, Frame].

%% @doc A pid of a node that is none of ours.
-spec pid(string(), pos_integer(), pos_integer()) -> pid().
pid(Node, Id, Creation) ->
    binary_to_term(<<131, 88, 119, (length(Node)), (list_to_binary(Node))/binary, Id:32, 0:32,
                     Creation:32>>).

%% @doc A `gen_server:call' of the plainest kind; the next answer to `From'.
-spec call(gen_tcp:socket(), pid(), atom(), term()) -> term().
call(Socket, From, Name, Request) ->
    Tag = {tag, rand:uniform(1 bsl 40)},
    ok = send(Socket, {6, From, '', Name}, term_to_binary({'$gen_call', {From, Tag}, Request})),
    answer(Socket, Tag).

answer(Socket, Tag) ->
    case terms(Socket, ?TIMEOUT_MS) of
        {_, {Tag, Answer}} -> Answer;
        {error, _} = Error -> Error;
        _ -> answer(Socket, Tag)
    end.

%% @doc A `gen_server:cast'.
-spec cast(gen_tcp:socket(), pid(), atom(), term()) -> ok | {error, term()}.
cast(Socket, From, Name, Request) ->
    send(Socket, {6, From, '', Name}, term_to_binary({'$gen_cast', Request})).

%% @doc Registers `Name' (before the `@') with EPMD as a hidden node that accepts connections on
%% the socket returned; it is registered until the second socket is closed.
-spec listen_as(string()) -> {gen_tcp:socket(), gen_tcp:socket()}.
listen_as(Name) ->
    {ok, Listener} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listener),
    EpmdPort = list_to_integer(os:getenv("ERL_EPMD_PORT", "4369")),
    {ok, Epmd} = gen_tcp:connect({127, 0, 0, 1}, EpmdPort, [binary, {active, false}], ?TIMEOUT_MS),
    %% ALIVE2_REQ: hidden node, TCP, handshake versions 6 to 6.
    ok = message(Epmd, [<<120, Port:16, 72, 0, 6:16, 6:16, (length(Name)):16>>, Name, <<0:16>>]),
    {ok, <<118, 0, _Creation:32>>} = gen_tcp:recv(Epmd, 6, ?TIMEOUT_MS),
    {Listener, Epmd}.
