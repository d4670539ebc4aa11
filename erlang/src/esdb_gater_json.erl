%%% @private
%%% @doc The part of JSON that capability tokens use: objects with text keys, arrays, texts, whole
%%% numbers, booleans and null. OTP 25 has no JSON module.
%%%
%%% The encoder has one form: keys in ascending order, no white space, and no escape that is not
%%% required. The decoder accepts only JSON (RFC 8259) in UTF-8, and refuses keys that occur twice,
%%% fractions and exponents, numbers beyond 64 bits, and deep nesting, since two programs must not
%%% read one token in two ways.
%%% @end
-module(esdb_gater_json).

-export([encode/1, decode/1]).

-export_type([value/0]).

-type value() :: #{binary() => value()} | [value()] | binary() | integer() | boolean() | null.

%% The same depth as in the decoder of the gateway program.
-define(MAX_DEPTH, 127).
-define(MIN_INTEGER, -16#8000000000000000).
-define(MAX_INTEGER, 16#7fffffffffffffff).

%% @doc Encodes a value. Raises `badarg' for a term that is not a value.
-spec encode(value()) -> binary().
encode(Value) -> iolist_to_binary(write(Value)).

write(true) -> <<"true">>;
write(false) -> <<"false">>;
write(null) -> <<"null">>;
write(N) when is_integer(N), N >= ?MIN_INTEGER, N =< ?MAX_INTEGER -> integer_to_binary(N);
write(Text) when is_binary(Text) -> write_text(Text);
write(List) when is_list(List) ->
    [$[, lists:join($,, [write(Value) || Value <- List]), $]];
write(Map) when is_map(Map) ->
    Pairs = [[write_text(Key), $:, write(Value)] || {Key, Value} <- lists:sort(maps:to_list(Map))],
    [${, lists:join($,, Pairs), $}];
write(_) ->
    error(badarg).

write_text(Text) when is_binary(Text) ->
    case unicode:characters_to_list(Text) of
        Characters when is_list(Characters) ->
            [$", << <<(escaped(C))/binary>> || C <- Characters >>, $"];
        _ ->
            error(badarg)
    end;
write_text(_) ->
    error(badarg).

escaped($") -> <<"\\\"">>;
escaped($\\) -> <<"\\\\">>;
escaped(C) when C < 32 -> iolist_to_binary(io_lib:format("\\u~4.16.0b", [C]));
escaped(C) -> <<C/utf8>>.

%% @doc Decodes a text that consists of one value.
-spec decode(binary()) -> {ok, value()} | {error, invalid_json}.
decode(Text) when is_binary(Text) ->
    try
        {Value, Rest} = value(space(Text), 0),
        <<>> = space(Rest),
        {ok, Value}
    catch
        throw:invalid_json -> {error, invalid_json};
        error:{badmatch, _} -> {error, invalid_json}
    end.

value(<<"true", Rest/binary>>, _) -> {true, Rest};
value(<<"false", Rest/binary>>, _) -> {false, Rest};
value(<<"null", Rest/binary>>, _) -> {null, Rest};
value(<<$", Rest/binary>>, _) -> text(Rest, []);
value(<<Open, Rest/binary>>, Depth) when Depth < ?MAX_DEPTH, Open =:= $[ ->
    case space(Rest) of
        <<$], After/binary>> -> {[], After};
        Elements -> elements(Elements, Depth + 1, [])
    end;
value(<<Open, Rest/binary>>, Depth) when Depth < ?MAX_DEPTH, Open =:= ${ ->
    case space(Rest) of
        <<$}, After/binary>> -> {#{}, After};
        Members -> members(Members, Depth + 1, #{})
    end;
value(<<C, _/binary>> = Number, _) when C =:= $-; C >= $0, C =< $9 -> number(Number);
value(_, _) -> throw(invalid_json).

elements(Text, Depth, Before) ->
    {Value, Rest} = value(Text, Depth),
    case space(Rest) of
        <<$,, More/binary>> -> elements(space(More), Depth, [Value | Before]);
        <<$], After/binary>> -> {lists:reverse(Before, [Value]), After};
        _ -> throw(invalid_json)
    end.

members(<<$", Text/binary>>, Depth, Before) ->
    {Key, AfterKey} = text(Text, []),
    is_map_key(Key, Before) andalso throw(invalid_json),
    <<$:, AfterColon/binary>> = space(AfterKey),
    {Value, Rest} = value(space(AfterColon), Depth),
    case space(Rest) of
        <<$,, More/binary>> -> members(space(More), Depth, Before#{Key => Value});
        <<$}, After/binary>> -> {Before#{Key => Value}, After};
        _ -> throw(invalid_json)
    end;
members(_, _, _) ->
    throw(invalid_json).

number(Text) ->
    {Sign, Digits} = case Text of
                         <<$-, Rest/binary>> -> {-1, Rest};
                         _ -> {1, Text}
                     end,
    case digits(Digits, 0) of
        0 -> throw(invalid_json);
        Size when Size > 19 -> throw(invalid_json);
        Size ->
            <<Whole:Size/binary, After/binary>> = Digits,
            N = Sign * binary_to_integer(Whole),
            IsOther = Size > 1 andalso binary:first(Whole) =:= $0
                orelse is_fraction(After) orelse N < ?MIN_INTEGER orelse N > ?MAX_INTEGER
                orelse Sign < 0 andalso N =:= 0,
            IsOther andalso throw(invalid_json),
            {N, After}
    end.

digits(<<C, Rest/binary>>, Count) when C >= $0, C =< $9 -> digits(Rest, Count + 1);
digits(_, Count) -> Count.

is_fraction(<<C, _/binary>>) -> lists:member(C, ".eE");
is_fraction(<<>>) -> false.

text(<<$", Rest/binary>>, Before) ->
    {unicode:characters_to_binary(lists:reverse(Before)), Rest};
text(<<$\\, $u, Hex:4/binary, Rest/binary>>, Before) ->
    unit(hex(Hex), Rest, Before);
text(<<$\\, C, Rest/binary>>, Before) ->
    text(Rest, [unescaped(C) | Before]);
text(<<C/utf8, Rest/binary>>, Before) when C >= 32 ->
    text(Rest, [C | Before]);
text(_, _) ->
    throw(invalid_json).

%% Characters beyond 16 bits are written as two escapes; half of such a pair is invalid.
unit(High, <<$\\, $u, Hex:4/binary, Rest/binary>>, Before) when High >= 16#d800, High =< 16#dbff ->
    case hex(Hex) of
        Low when Low >= 16#dc00, Low =< 16#dfff ->
            C = 16#10000 + (High - 16#d800) * 16#400 + Low - 16#dc00,
            text(Rest, [C | Before]);
        _ ->
            throw(invalid_json)
    end;
unit(Half, _, _) when Half >= 16#d800, Half =< 16#dfff -> throw(invalid_json);
unit(C, Rest, Before) -> text(Rest, [C | Before]).

hex(Digits) ->
    lists:foldl(fun(C, N) -> N * 16 + hex_digit(C) end, 0, binary_to_list(Digits)).

hex_digit(C) when C >= $0, C =< $9 -> C - $0;
hex_digit(C) when C >= $a, C =< $f -> C - $a + 10;
hex_digit(C) when C >= $A, C =< $F -> C - $A + 10;
hex_digit(_) -> throw(invalid_json).

unescaped($") -> $";
unescaped($\\) -> $\\;
unescaped($/) -> $/;
unescaped($b) -> $\b;
unescaped($f) -> $\f;
unescaped($n) -> $\n;
unescaped($r) -> $\r;
unescaped($t) -> $\t;
unescaped(_) -> throw(invalid_json).

space(<<C, Rest/binary>>) when C =:= $\s; C =:= $\t; C =:= $\n; C =:= $\r -> space(Rest);
space(Text) -> Text.
